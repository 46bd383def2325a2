"""ViLT (Kim et al. 2021): a cross-encoder only. It has no vision tower but one transformer over words and projected patches.

The image tokens are the projected patches with their interpolated positions, which are all that the transformer reads of an image.
The transformers library finds the valid patches with data-dependent loops, which no exporter takes. Here all patches stay in place
and the invalid ones are masked. The interpolation of positions (bilinear, corners aligned) is two products with "hat" weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViltForImageAndTextRetrieval

from milvus_coop.offline.convert.catalogue import VILT
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.family import CheckpointSource, Matcher
from milvus_coop.offline.convert.preprocessing import image_spec_of

_MASKED = -1e9


class Patches(nn.Module):
    """Pixels and mask to projected patches with positions. Patches outside the image are zero."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.parts = model.vilt.embeddings
        self.side = self.parts.config.image_size // self.parts.config.patch_size

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """(B, 3, S, S), (B, G, G) of 0 and 1 -> (B, 1 + G * G, width)."""
        patches = self.parts.patch_embeddings(pixels)  # (B, W, G, G)
        rows, columns = (_hat(mask.amax(dim=axis), self.side) for axis in (2, 1))  # (B, G, side)
        grid = self.parts.position_embeddings[0, 1:].view(self.side, -1)  # (side, side * W)
        positions = torch.unflatten(rows @ grid, 2, (self.side, -1))  # (B, G, side, W)
        positions = columns[:, None] @ positions  # (B, G, G, W)
        states = patches.flatten(2).transpose(1, 2) + positions.flatten(1, 2)
        start = (self.parts.cls_token + self.parts.position_embeddings[:, :1]).expand(states.shape[0], -1, -1)
        return torch.cat([start, states * mask.flatten(1)[:, :, None]], dim=1)


def _hat(present: Tensor, side: int) -> Tensor:
    """Weights of bilinear interpolation from `side` positions to n positions, the number of an image's patches along one axis.

    Args:
        present: (B, G): n ones for the patches of the image, then zeros.
        side: number of learnt positions.

    Returns:
        (B, G, side); row i weighs the positions around i * (side - 1) / (n - 1).
    """
    count = present.sum(1, keepdim=True)
    index = torch.arange(present.shape[1], dtype=present.dtype)
    place = index[None] * (side - 1) / (count - 1).clamp(min=1.0)
    positions = torch.arange(side, dtype=present.dtype)
    return (1.0 - (place[:, :, None] - positions).abs()).clamp(min=0.0)


class ViltMatch(nn.Module):
    """Words and patches to match logits: the transformer reads both, and the rank head reads the pooled [CLS]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vilt, self.head = model.vilt, model.rank_output

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        """int64 (B, T) twice, (B, 1 + G * G, width) -> (B, 2): zero for "no match", and the head's output for "match"."""
        kinds = self.vilt.embeddings.token_type_embeddings.weight
        words = self.vilt.embeddings.text_embeddings(input_ids=input_ids) + kinds[0]
        present = torch.cat([attention_mask.float(), (tokens.abs().amax(-1) > 0).float()], dim=1)
        mask = ((1.0 - present) * _MASKED)[:, None, None, :]
        states = torch.cat([words, tokens + kinds[1]], dim=1)
        states = self.vilt.encoder(states, attention_mask=mask).last_hidden_state
        logit = self.head(self.vilt.pooler(self.vilt.layernorm(states)))
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def open_vilt(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `ViltForImageAndTextRetrieval`."""
    model = checkpoint.model(ViltForImageAndTextRetrieval)
    config: Any = model.config
    image = image_spec_of(checkpoint.processor(), checkpoint.name)
    patch = config.patch_size

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        mask = inputs["patch_mask"].long().repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        logits = model(pixel_values=inputs["pixel_values"], pixel_mask=mask, **words).logits
        return {"match_probability": torch.sigmoid(logits[:, 0])}

    return CheckpointSource(
        family=VILT,
        checkpoint=checkpoint,
        vision=Patches(model),
        image=image,
        tokenizer=checkpoint.tokenizer(),
        positions=config.max_position_embeddings,
        reference=reference,
        matcher=Matcher(1 + (image.size // patch) ** 2, config.hidden_size, nn.Identity(), ViltMatch(model)),
    )
