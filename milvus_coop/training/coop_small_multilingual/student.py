"""The student: weighted word pieces, summed, and a small network (deep averaging network, Iyyer et al. 2015).

A transformer of the same cost would see each text once in the half hour that this one needs for ten passes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Student(nn.Module):
    """Word pieces of any language to the text embedding of the base bundle, and to text tokens for its cross-encoder."""

    word_basis: Tensor

    def __init__(self, vocabulary: int, *, dim: int, token_dim: int, width: int = 256, hidden: int = 1024) -> None:
        super().__init__()
        self.pieces = nn.Embedding(vocabulary, width, sparse=True)
        nn.init.normal_(self.pieces.weight, std=width**-0.5)
        self.weights = nn.Embedding(vocabulary, 1, sparse=True)
        nn.init.zeros_(self.weights.weight)
        self.norm = nn.LayerNorm(width)
        self.straight = nn.Linear(width, dim)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.register_buffer("word_basis", torch.zeros(dim, token_dim))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (B, T) twice -> unit (B, dim), (B, T, token_dim).

        Every text token is the text embedding in the tokens' space: a piece of a word means nothing that the cross-encoder knows.
        """
        weights = torch.sigmoid(self.weights(input_ids)) * attention_mask[:, :, None].to(self.weights.weight.dtype)
        embedding = self.embed((self.pieces(input_ids) * weights).sum(1))
        tokens = (embedding @ self.word_basis)[:, None, :].expand(-1, input_ids.shape[1], -1)
        return embedding, tokens

    def embed_flat(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """The text embeddings alone, of texts one after the other: int64 (sum of lengths,), starts (B,) -> unit (B, dim)."""
        weights = torch.sigmoid(self.weights(ids))[:, 0]
        sums = functional.embedding_bag(
            ids, self.pieces.weight, offsets, mode="sum", per_sample_weights=weights, sparse=self.pieces.sparse
        )
        return self.embed(sums)

    def embed(self, sums: Tensor) -> Tensor:
        """Weighted sums of pieces (B, width) -> unit (B, dim)."""
        pooled = self.norm(sums)
        return functional.normalize(self.straight(pooled) + self.narrow(functional.gelu(self.widen(pooled))), dim=-1)
