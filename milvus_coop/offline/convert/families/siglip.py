"""SigLIP (Zhai et al. 2023) and the fixed-resolution checkpoints of SigLIP 2: two towers; texts are padded to full length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import normalizers
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipModel

from milvus_coop.offline.convert.catalogue import SIGLIP
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.towers import Pooled, UnitLength
from milvus_coop.offline.convert.family import CheckpointSource, Retriever
from milvus_coop.offline.convert.preprocessing import image_spec_of


class SiglipEmbedTexts(nn.Module):
    """Token ids to the text's last state. Padding is read as text, as in training."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.text_model

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 (B, T) -> unit (B, dim)."""
        return functional.normalize(self.model(input_ids=input_ids).pooler_output, dim=-1)


def siglip_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's own tokenizer. That of SigLIP 2 is made to lower texts, as in training.

    Transformers does this for checkpoints of the type `siglip2`. It does not do it for those with a fixed resolution, which are of
    the type `siglip` and have the plain tokenizer of Gemma (transformers' issue 43054).
    """
    tokenizer = checkpoint.tokenizer()
    if "Gemma" in type(tokenizer).__name__:
        backend = tokenizer.backend_tokenizer
        steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = normalizers.Sequence(steps)
    return tokenizer


def open_siglip(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `SiglipModel`."""
    model = checkpoint.model(SiglipModel)
    config: Any = model.config
    vision, text = config.vision_config, config.text_config

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        outputs = model(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"])
        return {"image_embedding": outputs.image_embeds, "text_embedding": outputs.text_embeds}

    return CheckpointSource(
        family=SIGLIP,
        checkpoint=checkpoint,
        vision=Pooled(model.vision_model),
        image=image_spec_of(checkpoint.processor(), checkpoint.name, vision.image_size),
        tokenizer=siglip_tokenizer(checkpoint),
        positions=text.max_position_embeddings,
        reference=reference,
        retriever=Retriever(vision.hidden_size, UnitLength(), SiglipEmbedTexts(model), masked=False),
        pad_to_max=True,
    )
