"""BridgeTower (Xu et al. 2023): a cross-encoder only. The upper layers of its two towers are bridged into a cross-modal encoder.

Each cross-modal layer reads one state of the vision tower. No such state depends on the text, so together they are the image
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BridgeTowerForImageAndTextRetrieval

from milvus_coop.offline.convert.catalogue import BRIDGETOWER
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.family import CheckpointSource, Matcher
from milvus_coop.offline.convert.preprocessing import image_spec_of

_MASKED = -1e9
_IMAGE = 1  # token type


class BridgeTowerVision(nn.Module):
    """Pixels to the normalised states of the vision tower's upper layers, one after the other."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.bridgetower.vision_model.visual
        self.first = _first_bridge(model)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, layers * (1 + patches), width)."""
        states = self.visual.forward_pre(pixels)  # (N, B, W)
        kept = []
        for number, block in enumerate(self.visual.transformer.resblocks, start=1):
            states = block(states)
            if number >= self.first:
                kept.append(self.visual.forward_post(states))  # (B, N, W)
        return torch.cat(kept, dim=1)


class BridgeTowerMatch(nn.Module):
    """Words and image tokens to match logits: the text tower is bridged layer by layer with the image's states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.head = model.bridgetower, model.itm_score
        self.first = _first_bridge(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        """int64 (B, T) twice, (B, layers * (1 + patches), width) -> (B, 2)."""
        model = self.model
        layers = model.text_model.encoder.layer
        mask = ((1.0 - attention_mask.float()) * _MASKED)[:, None, None, :]
        bridges = len(layers) - self.first + 1
        sights = tokens.chunk(bridges, dim=1)
        states = model.text_model.embeddings(input_ids=input_ids)
        for layer in layers[: self.first]:
            states = layer(states, mask)
        words, image = self._bridged(states, sights[0], 0)
        words, image = model.cross_modal_text_layernorm(words), model.cross_modal_image_layernorm(image)
        words, image = self._crossed(words, image, mask, 0)
        for bridge in range(1, bridges):
            states = layers[self.first + bridge - 1](states, mask)
            text, sight = self._bridged(states, sights[bridge], bridge)
            words = model.cross_modal_text_link_tower[bridge - 1](text, words, mask)
            image = model.cross_modal_image_link_tower[bridge - 1](sight, image, None)
            words, image = self._crossed(words, image, mask, bridge)
        logits: Tensor = self.head(model.get_cls_features(words, image))
        return logits

    def _bridged(self, text: Tensor, image: Tensor, bridge: int) -> tuple[Tensor, Tensor]:
        """The states of both towers that the cross-modal layer of that number takes."""
        kinds = self.model.token_type_embeddings.weight
        words = self.model._apply_text_transform(text, layer_idx=bridge) + kinds[0]
        return words, self.model._apply_image_transform(image, layer_idx=bridge) + kinds[_IMAGE]

    def _crossed(self, words: Tensor, image: Tensor, mask: Tensor, bridge: int) -> tuple[Tensor, Tensor]:
        """One cross-modal layer: each side attends to itself and to the other."""
        text = self.model.cross_modal_text_layers[bridge](words, image, attention_mask=mask)[0]
        return text, self.model.cross_modal_image_layers[bridge](image, words, encoder_attention_mask=mask)[0]


def _first_bridge(model: Any) -> int:
    """The number of layers of each tower that run before the first cross-modal layer."""
    config = model.config
    return int(config.text_config.num_hidden_layers - config.num_hidden_layers + 1)


def open_bridgetower(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `BridgeTowerForImageAndTextRetrieval`."""
    model = checkpoint.model(BridgeTowerForImageAndTextRetrieval)
    config: Any = model.config
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    bridges = config.num_hidden_layers
    # The class cropped to `size` when BridgeTower was published. Now it crops to 288 unless the file states something else.
    processor = checkpoint.processor(crop_size={"shortest_edge": vision.image_size})

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        outputs = model(**{name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")})
        return {"match_probability": outputs.logits.softmax(-1)[:, 1]}

    return CheckpointSource(
        family=BRIDGETOWER,
        checkpoint=checkpoint,
        vision=BridgeTowerVision(model),
        image=image_spec_of(processor, checkpoint.name, vision.image_size),
        tokenizer=checkpoint.tokenizer(),
        positions=config.text_config.max_position_embeddings - 2,  # RoBERTa counts positions from the one after that of the padding
        reference=reference,
        matcher=Matcher(bridges * (1 + patches), vision.hidden_size, nn.Identity(), BridgeTowerMatch(model)),
    )
