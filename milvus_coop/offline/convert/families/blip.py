"""BLIP (Li et al. 2022): a vision transformer, and a BERT that reads a text alone (ITC) or also attends to image patches (ITM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import BlipForImageTextRetrieval

from milvus_coop.offline.convert.catalogue import BLIP
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.towers import PatchStates
from milvus_coop.offline.convert.family import CheckpointSource, Grid, Matcher, Retriever
from milvus_coop.offline.convert.preprocessing import image_spec_of

_MASKED = -1e9


class EmbedImages(nn.Module):
    """States of the vision tower to the image embedding: the projected [CLS] state."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.project = model.vision_proj

    def forward(self, states: Tensor) -> Tensor:
        """(B, 1 + patches, width) -> unit (B, dim)."""
        return functional.normalize(self.project(states[:, 0]), dim=-1)


class BlipEmbedTexts(nn.Module):
    """Token ids to the text embedding: the text encoder without an image."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.project = model.text_encoder, model.text_proj

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, T) twice -> unit (B, dim)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return functional.normalize(self.project(states[:, 0]), dim=-1)


class AbsorbedCrossAttention(nn.Module):
    """Multi-head attention of words to image tokens, without the output projection: the words are projected, not the image tokens.

    A cross-encoder such as BLIP projects all N image tokens to keys and values in every layer, for every pair. This takes 4 N W²
    products, nine tenths of its work. Both projections are linear, so they can be applied on the other side:
    q · (K x) = (Kᵀ q) · x, and Σ a (V x) = V (Σ a x). With T words and H heads this takes 4 T H N W products. The ratio is T H / W,
    which for BLIP and 8 words is an eighth. (The same step, "weight absorption", makes multi-head latent attention cheap:
    DeepSeek-V2, 2024, section 2.1.) A key's bias adds the same number to all scores of a query, so it does not change the softmax.
    A value's bias is added once, since the weights sum to 1.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.heads = query, key, value, heads

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Words (B, T, W), image tokens (B, N, D) -> (B, T, W)."""
        batch, length, width = states.shape
        per_head = width // self.heads
        queries = self.query(states).view(batch, length, self.heads, per_head).transpose(1, 2) * per_head**-0.5  # (B, H, T, W / H)
        keys = self.key.weight.view(self.heads, per_head, -1)  # (H, W / H, D)
        moved = (queries @ keys).flatten(1, 2)  # (B, H * T, D)
        weights = (moved @ tokens.transpose(1, 2)).softmax(-1)  # (B, H * T, N)
        seen = (weights @ tokens).view(batch, self.heads, length, -1)  # (B, H, T, D)
        values = self.value.weight.view(self.heads, per_head, -1).transpose(1, 2)  # (H, D, W / H)
        result: Tensor = (seen @ values).transpose(1, 2).reshape(batch, length, width) + self.value.bias
        return result


class BlipMatch(nn.Module):
    """Token ids and image tokens to match logits: the text encoder with cross-attention to the image's states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text, self.head = model.text_encoder, model.itm_head
        heads = model.config.text_config.num_attention_heads
        parts = (layer.crossattention.self for layer in self.text.encoder.layer)
        self.attend = nn.ModuleList(AbsorbedCrossAttention(part.query, part.key, part.value, heads) for part in parts)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        """int64 (B, T) twice, (B, 1 + patches, width) -> (B, 2)."""
        mask = ((1.0 - attention_mask.float()) * _MASKED)[:, None, None, :]
        states = self.text.embeddings(input_ids=input_ids)
        for layer, attend in zip(self.text.encoder.layer, self.attend, strict=True):
            states = layer.attention(states, attention_mask=mask)[0]
            states = layer.crossattention.output(attend(states, tokens), states)
            states = layer.feed_forward_chunk(states)
        logits: Tensor = self.head(states[:, 0])
        return logits


def open_blip(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `BlipForImageTextRetrieval`."""
    model = checkpoint.model(BlipForImageTextRetrieval)
    config: Any = model.config
    vision, text = config.vision_config, config.text_config
    side = vision.image_size // vision.patch_size

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        pairs = model(pixel_values=inputs["pixel_values"], **words)
        alone = model(pixel_values=inputs["pixel_values"], use_itm_head=False, **words)
        return {
            "image_embedding": functional.normalize(model.vision_proj(pairs.last_hidden_state[:, 0]), dim=-1),
            "text_embedding": functional.normalize(model.text_proj(alone.question_embeds[:, 0]), dim=-1),
            "match_probability": pairs.itm_score.softmax(-1)[:, 1],
        }

    return CheckpointSource(
        family=BLIP,
        checkpoint=checkpoint,
        vision=PatchStates(model.vision_model),
        image=image_spec_of(checkpoint.processor(), checkpoint.name, vision.image_size),
        tokenizer=checkpoint.tokenizer(),
        positions=text.max_position_embeddings,
        reference=reference,
        retriever=Retriever(config.image_text_hidden_size, EmbedImages(model), BlipEmbedTexts(model)),
        matcher=Matcher(
            count=1 + side * side,
            dim=vision.hidden_size,
            tokens=nn.Identity(),
            match=BlipMatch(model),
            score="sum",
            grid=Grid(side),
        ),
    )
