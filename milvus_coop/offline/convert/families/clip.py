"""CLIP (Radford et al. 2021) and models of the same form: two towers, each with a projection into a common space.

MetaCLIP 2 (Chuang et al. 2025) has CLIP's text tower with the tokenizer of XLM-V. AltCLIP (Chen et al. 2022) and Chinese-CLIP
(Yang et al. 2022) have an XLM-RoBERTa and a BERT in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AltCLIPModel, ChineseCLIPModel, CLIPModel, MetaClip2Model, PreTrainedModel

from milvus_coop.offline.convert.catalogue import ALTCLIP, CHINESE_CLIP, CLIP, METACLIP2, Family
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.towers import Pooled, UnitLength
from milvus_coop.offline.convert.family import CheckpointSource, Retriever
from milvus_coop.offline.convert.preprocessing import image_spec_of


class ClipEmbedTexts(nn.Module):
    """Token ids to the projected text: its pooled state, or that of [CLS] if the tower has no pooler (Chinese-CLIP)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.project = model.text_model, model.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, T) twice -> unit (B, dim)."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask)
        pooled = states.last_hidden_state[:, 0] if states.pooler_output is None else states.pooler_output
        return functional.normalize(self.project(pooled), dim=-1)


def open_clip(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `CLIPModel`."""
    return _open(checkpoint, CLIP, CLIPModel)


def open_metaclip2(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `MetaClip2Model`."""
    return _open(checkpoint, METACLIP2, MetaClip2Model)


def open_altclip(checkpoint: Checkpoint) -> CheckpointSource:
    """Open an `AltCLIPModel`. Its text tower counts positions from the one after that of the padding, as RoBERTa does."""
    return _open(checkpoint, ALTCLIP, AltCLIPModel, unused_positions=2)


def open_chinese_clip(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `ChineseCLIPModel`."""
    return _open(checkpoint, CHINESE_CLIP, ChineseCLIPModel)


def _open(checkpoint: Checkpoint, family: Family, kind: type[PreTrainedModel], unused_positions: int = 0) -> CheckpointSource:
    model: Any = checkpoint.model(kind)
    config = model.config

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        outputs = model(**{name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")})
        return {"image_embedding": outputs.image_embeds, "text_embedding": outputs.text_embeds}

    return CheckpointSource(
        family=family,
        checkpoint=checkpoint,
        vision=Pooled(model.vision_model, model.visual_projection),
        image=image_spec_of(checkpoint.processor(), checkpoint.name, config.vision_config.image_size),
        tokenizer=checkpoint.tokenizer(),
        positions=config.text_config.max_position_embeddings - unused_positions,
        reference=reference,
        retriever=Retriever(config.projection_dim, UnitLength(), ClipEmbedTexts(model)),
    )
