"""The networks that run at ingest and at query time: image encoder and text encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.training.coop_small.backbone import PooledBackbone
from milvus_coop.training.coop_small.layout import EMBEDDING_DIM, EMBEDDING_ROWS, TAG_ROWS, TOKEN_DIM
from milvus_coop.training.efficientnet_lite import FEATURES
from milvus_coop.training.minilm import MiniLM

_TINY = 1e-9


class ImageHead(nn.Module):
    """Pooled features -> a vector in the space of the sentence vectors, not normalised."""

    def __init__(self, *, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.widen = nn.Linear(FEATURES, hidden)
        self.narrow = nn.Linear(hidden, EMBEDDING_DIM)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, 1280) -> (B, 384)."""
        hidden = functional.gelu(self.widen(self.dropout(pooled)))
        result: Tensor = self.narrow(self.dropout(hidden))
        return result


@torch.no_grad()
def merged_heads(heads: Sequence[ImageHead]) -> ImageHead:
    """One wide head that computes the mean of several."""
    wide = ImageHead(hidden=sum(head.widen.out_features for head in heads))
    wide.widen.weight.copy_(torch.cat([head.widen.weight for head in heads]))
    wide.widen.bias.copy_(torch.cat([head.widen.bias for head in heads]))
    wide.narrow.weight.copy_(torch.cat([head.narrow.weight for head in heads], dim=1) / len(heads))
    wide.narrow.bias.copy_(torch.stack([head.narrow.bias for head in heads]).mean(0))
    return wide.eval().requires_grad_(False)


class Words(NamedTuple):
    """What the frozen classifier says of pictures, in sentence space.

    `tags` and `regions`: tag vector of the whole picture and mean tag vector of its cells, unit (B, 384); `certainty` (B, 4):
    highest probability, sum of the five highest, entropy, mean entropy of the cells; `rows` (B, 24, 64): the region and tag
    rows of the image tokens.
    """

    tags: Tensor
    regions: Tensor
    certainty: Tensor
    rows: Tensor


class Tagger(nn.Module):
    """The backbone's classifier read as words."""

    class_vectors: Tensor
    basis: Tensor

    def __init__(self, classifier: nn.Linear, class_vectors: Tensor, basis: Tensor) -> None:
        """`class_vectors`: unit (1000, 384); `basis`: orthonormal columns (384, 64)."""
        super().__init__()
        self.classifier = classifier
        self.register_buffer("class_vectors", class_vectors)
        self.register_buffer("basis", basis)

    def forward(self, pooled: Tensor, cells: Tensor) -> Words:
        """Features of the picture (B, 1280) and of its cells (B, 16, 1280)."""
        whole, parts = self.classifier(pooled).softmax(-1), self.classifier(cells).softmax(-1)
        part_vectors = functional.normalize(parts @ self.class_vectors, dim=-1)  # (B, 16, 384)
        probability, index = whole.topk(TAG_ROWS, dim=-1)
        directions = functional.normalize(self.class_vectors @ self.basis, dim=-1)[index]
        certainty = [probability[:, 0], probability[:, :5].sum(-1), _entropy(whole), _entropy(parts).mean(-1)]
        return Words(
            tags=functional.normalize(whole @ self.class_vectors, dim=-1),
            regions=functional.normalize(part_vectors.mean(1), dim=-1),
            certainty=torch.stack(certainty, dim=-1),
            rows=torch.cat([part_vectors @ self.basis, directions * probability[..., None]], dim=1),
        )


class Blend(nn.Module):
    """Weighs the head's vector, the picture's tags and its regions' tags, by how sure the classifier is."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.widen = nn.Linear(8, hidden)
        self.narrow = nn.Linear(hidden, 2)
        nn.init.zeros_(self.narrow.weight)
        with torch.no_grad():  # softplus of these: a weight of 1 for the tags and of 0.3 for the regions
            self.narrow.bias.copy_(torch.tensor([0.54, -1.05]))

    def forward(self, head: Tensor, tags: Tensor, regions: Tensor, certainty: Tensor) -> Tensor:
        """(B, 384) three times, (B, 4) -> unit (B, 384)."""
        norm = head.norm(dim=-1)
        agreement = [
            norm / 4,
            (head * tags).sum(-1) / norm.clamp(min=_TINY),
            (head * regions).sum(-1) / norm.clamp(min=_TINY),
            (tags * regions).sum(-1),
        ]
        statistics = torch.cat([certainty, torch.stack(agreement, dim=-1)], dim=-1)
        weights = functional.softplus(self.narrow(functional.gelu(self.widen(statistics))))
        return functional.normalize(head + weights[:, :1] * tags + weights[:, 1:] * regions, dim=-1)


class ImageEncoder(nn.Module):
    """Pixels to the image embedding and the image tokens (see `layout`)."""

    def __init__(self, backbone: PooledBackbone, tagger: Tagger, head: ImageHead, blend: Blend) -> None:
        super().__init__()
        self.backbone, self.tagger, self.head, self.blend = backbone, tagger, head, blend

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, S, S) -> unit (B, 384), (B, 30, 64)."""
        pooled, cells = self.backbone(pixel_values)
        words = self.tagger(pooled, cells)
        embedding = self.blend(self.head(pooled), words.tags, words.regions, words.certainty)
        return embedding, image_tokens(embedding, words.rows)


def image_tokens(embedding: Tensor, rows: Tensor) -> Tensor:
    """Unit (B, 384) and the tagger's rows (B, 24, 64) -> image tokens (B, 30, 64), see `layout`."""
    return torch.cat([embedding.reshape(-1, EMBEDDING_ROWS, TOKEN_DIM), rows], dim=1)


class TextEncoder(nn.Module):
    """Token ids to the text embedding and to narrow token states for the cross-encoder."""

    basis: Tensor

    def __init__(self, tower: MiniLM, basis: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("basis", basis)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B, T) twice -> unit (B, 384), (B, T, 64)."""
        embedding, states = self.tower(input_ids, attention_mask)
        return embedding, states @ self.basis


def _entropy(probabilities: Tensor) -> Tensor:
    """Entropy of (..., 1000), 1 for the uniform distribution."""
    return -(probabilities * probabilities.clamp(min=_TINY).log()).sum(-1) / math.log(probabilities.shape[-1])
