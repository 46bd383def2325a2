"""The networks that run at ingest and at query time: image encoder and text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.training.coop_small.backbone import PooledBackbone
from milvus_coop.training.coop_small.layout import CELLS, EMBEDDING_DIM, EMBEDDING_ROWS, TAG_ROWS, TOKEN_DIM
from milvus_coop.training.coop_small.regions import CellCompressor, RegionHead, key_rows
from milvus_coop.training.efficientnet_lite import FEATURES
from milvus_coop.training.minilm import MiniLM

TAG_WEIGHT = 1.35
"""Weight of the tag vector against the heads' mean; 1 to 2 are within error on the training stamps, 1 is best for icons."""


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


def embed(vectors: Tensor, tags: Tensor) -> Tensor:
    """Heads' mean (B, 384) and unit tag vectors (B, 384) -> image embeddings, unit (B, 384)."""
    return functional.normalize(vectors + TAG_WEIGHT * tags, dim=-1)


class Words(NamedTuple):
    """What the frozen classifier says of pictures, in sentence space.

    `tags`: probability-weighted mean of the class vectors, unit (B, 384); `rows` (B, 24, 64): the region and tag rows of the
    image tokens; `cells` (B, 16, 256): the cells' features, compressed.
    """

    tags: Tensor
    rows: Tensor
    cells: Tensor


class Tagger(nn.Module):
    """The backbone's classifier read as words."""

    class_vectors: Tensor
    basis: Tensor

    def __init__(self, classifier: nn.Linear, class_vectors: Tensor, basis: Tensor, compressor: CellCompressor) -> None:
        """`class_vectors`: unit (1000, 384); `basis`: orthonormal columns (384, 64)."""
        super().__init__()
        self.classifier, self.compressor = classifier, compressor
        self.register_buffer("class_vectors", class_vectors)
        self.register_buffer("basis", basis)

    def forward(self, pooled: Tensor, cells: Tensor) -> Words:
        """Features of the picture (B, 1280) and of its cells (B, 16, 1280)."""
        whole, parts = self.classifier(pooled).softmax(-1), self.classifier(cells).softmax(-1)
        part_vectors = functional.normalize(parts @ self.class_vectors, dim=-1)  # (B, 16, 384)
        probability, index = whole.topk(TAG_ROWS, dim=-1)
        directions = functional.normalize(self.class_vectors @ self.basis, dim=-1)[index]
        return Words(
            tags=functional.normalize(whole @ self.class_vectors, dim=-1),
            rows=torch.cat([part_vectors @ self.basis, directions * probability[..., None]], dim=1),
            cells=self.compressor(cells),
        )


class ImageEncoder(nn.Module):
    """Pixels to the image embedding and the image tokens (see `layout`)."""

    def __init__(self, backbone: PooledBackbone, tagger: Tagger, head: ImageHead, regions: RegionHead) -> None:
        super().__init__()
        self.backbone, self.tagger, self.head, self.regions = backbone, tagger, head, regions

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, S, S) -> unit (B, 384), (B, 38, 64)."""
        pooled, cells = self.backbone(pixel_values)
        words = self.tagger(pooled, cells)
        embedding = embed(self.head(pooled), words.tags)
        return embedding, image_tokens(embedding, words.rows, self.regions(words.rows[:, :CELLS], words.cells))


def image_tokens(embedding: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
    """Unit (B, 384), the tagger's rows (B, 24, 64) and cell keys (B, 16, 32) -> image tokens (B, 38, 64), see `layout`."""
    return torch.cat([embedding.reshape(-1, EMBEDDING_ROWS, TOKEN_DIM), rows, key_rows(keys)], dim=1)


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
