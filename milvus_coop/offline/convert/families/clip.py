"""CLIP (Radford et al. 2021): two towers, each with a projection into a common space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel

from milvus_coop.offline.convert.catalogue import CLIP
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.towers import Pooled, UnitLength
from milvus_coop.offline.convert.family import CheckpointSource, Retriever
from milvus_coop.offline.convert.preprocessing import image_spec_of


class ClipEmbedTexts(nn.Module):
    """Token ids to the projected text."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.project = model.text_model, model.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, T) twice -> unit (B, dim)."""
        pooled = self.model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return functional.normalize(self.project(pooled), dim=-1)


def open_clip(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `CLIPModel`."""
    model = checkpoint.model(CLIPModel)
    config: Any = model.config

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        outputs = model(**{name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")})
        return {"image_embedding": outputs.image_embeds, "text_embedding": outputs.text_embeds}

    return CheckpointSource(
        family=CLIP,
        checkpoint=checkpoint,
        vision=Pooled(model.vision_model, model.visual_projection),
        image=image_spec_of(checkpoint.processor(), checkpoint.name, config.vision_config.image_size),
        tokenizer=checkpoint.tokenizer(),
        positions=config.text_config.max_position_embeddings,
        reference=reference,
        retriever=Retriever(config.projection_dim, UnitLength(), ClipEmbedTexts(model)),
    )
