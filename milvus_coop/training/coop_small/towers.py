"""The networks that run at ingest and at query time: image encoder and text encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.training.coop_small.backbone import PooledBackbone
from milvus_coop.training.coop_small.layout import EMBEDDING_DIM, EMBEDDING_ROWS, TAG_ROWS, TOKEN_DIM
from milvus_coop.training.efficientnet_lite import FEATURES
from milvus_coop.training.minilm import MiniLM


class ImageHead(nn.Module):
    """Pooled features and a tag vector -> unit vector in the space of the sentence vectors."""

    def __init__(self, *, hidden: int = 1024, dropout: float = 0.3) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(FEATURES, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, EMBEDDING_DIM),
        )
        self.tag_weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, pooled: Tensor, tag_vector: Tensor) -> Tensor:
        """(B, 1280), unit (B, 384) -> unit (B, 384)."""
        return functional.normalize(self.net(pooled) + self.tag_weight * tag_vector, dim=-1)


class Tagger(nn.Module):
    """The backbone's classifier read as words: class probabilities and their mean in sentence space."""

    class_vectors: Tensor
    basis: Tensor

    def __init__(self, classifier: nn.Linear, class_vectors: Tensor, basis: Tensor) -> None:
        """`class_vectors`: unit (1000, 384); `basis`: orthonormal columns (384, 64)."""
        super().__init__()
        self.classifier = classifier
        self.register_buffer("class_vectors", class_vectors)
        self.register_buffer("basis", basis)

    def vectors(self, features: Tensor) -> Tensor:
        """Features (..., 1280) -> probability-weighted mean of class vectors, unit length (..., 384)."""
        return functional.normalize(self.classifier(features).softmax(-1) @ self.class_vectors, dim=-1)

    def tag_rows(self, pooled: Tensor) -> Tensor:
        """(B, 1280) -> the likeliest classes' directions times their probability (B, 8, 64)."""
        probability, index = self.classifier(pooled).softmax(-1).topk(TAG_ROWS, dim=-1)
        directions = functional.normalize(self.class_vectors @ self.basis, dim=-1)
        return directions[index] * probability[..., None]

    def region_rows(self, cells: Tensor) -> Tensor:
        """(B, 16, 1280) -> each cell's tag vector in the tokens' space (B, 16, 64)."""
        return self.vectors(cells) @ self.basis


class ImageEncoder(nn.Module):
    """Pixels to the image embedding and the image tokens (see `layout`)."""

    def __init__(self, backbone: PooledBackbone, tagger: Tagger, head: ImageHead) -> None:
        super().__init__()
        self.backbone, self.tagger, self.head = backbone, tagger, head

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, S, S) -> unit (B, 384), (B, 30, 64)."""
        return describe(self.tagger, self.head, *self.backbone(pixel_values))


def describe(tagger: Tagger, head: ImageHead, pooled: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, 1280), (B, 16, 1280) -> image embedding, unit (B, 384), and image tokens (B, 30, 64)."""
    embedding = head(pooled, tagger.vectors(pooled))
    rows = embedding.unflatten(-1, (EMBEDDING_ROWS, TOKEN_DIM))
    return embedding, torch.cat([rows, tagger.region_rows(cells), tagger.tag_rows(pooled)], dim=1)


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
