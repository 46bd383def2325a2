"""SigLIP 2 NaFlex (Tschannen et al. 2025): SigLIP with patches of an image in its own aspect ratio, a bi-encoder.

The transformers library resizes the position embeddings to each image's grid in a loop over images, which no exporter takes. Here
the resize (bilinear, antialiased) is two sets of triangle weights, one for the rows and one for the columns of the grid. Only for
a grid of a single column, which a strip gets, do they differ from PyTorch 2.13, which treats it otherwise than a single row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Siglip2Model

from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.catalogue import NAFLEX
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.siglip import SiglipEmbedTexts, siglip_tokenizer
from milvus_coop.offline.convert.families.towers import UnitLength
from milvus_coop.offline.convert.family import CheckpointSource, Retriever
from milvus_coop.offline.convert.preprocessing import image_spec_of

_MASKED = -1e9


class NaflexVision(nn.Module):
    """Patches and the size of their grid to the pooled state of the vision tower."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.edge = model.vision_model, model.config.vision_config.patch_size
        self.side = self.tower.embeddings.position_embedding_size

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """(B, 3, S, S), (B, 2, N) of 0 and 1, for N patches in the square -> (B, dim)."""
        states = self.tower.embeddings.patch_embedding(_patches(pixels, self.edge))  # (B, N, W)
        rows, columns = mask.sum(-1, keepdim=True).unbind(1)  # (B, 1)
        number = torch.arange(mask.shape[-1], dtype=mask.dtype)[None]
        row = ((number + 0.5) / columns).int().float()
        column = number - row * columns
        row = torch.minimum(row, rows - 1.0)  # an empty place gets the last row
        states = states + self._positions(row, rows, column, columns)
        empty = (number >= rows * columns).float() * _MASKED  # (B, N)
        states = self.tower.encoder(inputs_embeds=states, attention_mask=empty[:, None, None, :]).last_hidden_state
        states = self.tower.post_layernorm(states)
        head = self.tower.head
        probe = head.probe.expand(states.shape[0], -1, -1)
        pooled = head.attention(probe, states, states, key_padding_mask=empty)[0]
        features: Tensor = (pooled + head.mlp(head.layernorm(pooled)))[:, 0]
        return features

    def _positions(self, row: Tensor, rows: Tensor, column: Tensor, columns: Tensor) -> Tensor:
        """The position embedding of each patch, (B, N, W)."""
        down, across = _triangle(row, rows, self.side), _triangle(column, columns, self.side)  # (B, N, side)
        weights = (down[:, :, :, None] * across[:, :, None, :]).flatten(2)
        positions: Tensor = weights @ self.tower.embeddings.position_embedding.weight
        return positions


def _triangle(place: Tensor, count: Tensor, side: int) -> Tensor:
    """Weights of an antialiased bilinear resize from `side` positions to `count`.

    Args:
        place: (B, N): for each patch, its place among `count`.
        count: (B, 1).
        side: number of learnt positions.

    Returns:
        (B, N, side), with a sum of 1 over the last axis.
    """
    scale = side / count
    centres = (place + 0.5) * scale
    distance = (torch.arange(side, dtype=place.dtype) + 0.5 - centres[:, :, None]).abs()
    weights = (1.0 - distance / scale.clamp(min=1.0)[:, :, None]).clamp(min=0.0)
    return weights / weights.sum(-1, keepdim=True)


def _patches(pixels: Tensor, edge: int) -> Tensor:
    """(B, 3, S, S) -> the patches row by row, (B, N, edge * edge * 3)."""
    side = pixels.shape[-1] // edge
    split = pixels.reshape(-1, 3, side, edge, side, edge)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, edge * edge * 3)


def open_naflex(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `Siglip2Model`."""
    model = checkpoint.model(Siglip2Model)
    config: Any = model.config
    vision = config.vision_config
    image = image_spec_of(checkpoint.processor(), checkpoint.name)
    if (image.fit, image.divisor) != ("patches", vision.patch_size):
        raise ConvertError(
            f"'{checkpoint.name}' makes no patches of {vision.patch_size} pixels, which its model takes",
            expected="a preprocessor_config.json that fits the model",
        )

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        grids = inputs["patch_mask"].sum(-1).long()  # (B, 2): rows and columns
        present = torch.arange(inputs["patch_mask"].shape[-1])[None] < grids.prod(-1, keepdim=True)
        patches = _patches(inputs["pixel_values"], vision.patch_size)
        outputs = model(inputs["input_ids"], patches, pixel_attention_mask=present.long(), spatial_shapes=grids)
        return {"image_embedding": outputs.image_embeds, "text_embedding": outputs.text_embeds}

    return CheckpointSource(
        family=NAFLEX,
        checkpoint=checkpoint,
        vision=NaflexVision(model),
        image=image,
        tokenizer=siglip_tokenizer(checkpoint),
        positions=config.text_config.max_position_embeddings,
        reference=reference,
        retriever=Retriever(vision.hidden_size, UnitLength(), SiglipEmbedTexts(model), masked=False),
        pad_to_max=True,
    )
