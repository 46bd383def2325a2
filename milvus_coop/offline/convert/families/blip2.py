"""BLIP-2 (Li et al. 2023) with its image-text matching head: a Q-Former over a frozen vision transformer. A cross-encoder only.

Its bi-encoder compares a text with 32 vectors per image and takes the best. An index of single vectors cannot do that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2ForImageTextRetrieval

from milvus_coop.offline.convert.catalogue import BLIP2
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.towers import PatchStates
from milvus_coop.offline.convert.family import CheckpointSource, Grid, Matcher
from milvus_coop.offline.convert.preprocessing import image_spec_of


class Blip2Match(nn.Module):
    """Learnt queries and words through the Q-Former, which attends to the image's states. The logits are means over the queries."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.queries, self.embeddings = model.query_tokens, model.embeddings
        self.former, self.head = model.qformer, model.itm_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        """int64 (B, T) twice, (B, 1 + patches, width) -> (B, 2)."""
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        count = queries.shape[1]
        states = self.former(
            query_embeds=self.embeddings(input_ids=input_ids, query_embeds=queries),
            query_length=count,
            attention_mask=torch.cat([torch.ones_like(queries[:, :, 0], dtype=torch.int64), attention_mask], dim=1),
            encoder_hidden_states=tokens,  # without a mask: a mask of ones would get the words' length and could not be exported
        ).last_hidden_state
        logits: Tensor = self.head(states[:, :count]).mean(dim=1)
        return logits


def open_blip2(checkpoint: Checkpoint) -> CheckpointSource:
    """Open a `Blip2ForImageTextRetrieval`."""
    model = checkpoint.model(Blip2ForImageTextRetrieval)
    config: Any = model.config
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    leading = config.num_query_tokens if config.image_token_index is not None else 0

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if leading:  # the processor puts placeholders for the queries in front, and the model removes them
            ids, mask = (torch.cat([torch.ones_like(t[:, :1]).expand(-1, leading), t], dim=1) for t in (ids, mask))
        outputs = model(inputs["pixel_values"], ids, mask, use_image_text_matching_head=True)
        return {"match_probability": outputs.logits_per_image.softmax(-1)[:, 1]}

    return CheckpointSource(
        family=BLIP2,
        checkpoint=checkpoint,
        vision=PatchStates(model.vision_model),
        image=image_spec_of(checkpoint.processor(), checkpoint.name, vision.image_size),
        tokenizer=checkpoint.tokenizer(),
        positions=config.qformer_config.max_position_embeddings,
        reference=reference,
        matcher=Matcher(1 + side * side, vision.hidden_size, nn.Identity(), Blip2Match(model), grid=Grid(side)),
    )
