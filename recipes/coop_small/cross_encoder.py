"""The cross-encoder: how well single words find single cells, read by a small network per word and one per pair.

A pair's logit starts as the scaled cosine of the bi-encoder; what the networks add starts at zero, so that the cross-encoder cannot
start worse. It reads a pair alone, never the other candidates of a list, so a pair has the same probability wherever it is scored.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.coop_small.hubs import EXTRA, LENGTH_SQUARED
from recipes.coop_small.towers import CELLS, HEAD_DIM, HEADS, WORD_DIM

EMBEDDING = HEADS * HEAD_DIM
EMBEDDING_ROWS = EMBEDDING // WORD_DIM
HUB_ROW = EMBEDDING_ROWS
TOKENS = EMBEDDING_ROWS + 1 + CELLS
"""Rows of an image's tokens: its embedding in 8 rows of 96, its hub dimensions, its 16 cells."""
MEMBERS = 3
"""Networks whose results are averaged."""
PAIR_FEATURES = 13
WORD_FEATURES = 6
_PROJECTED = 16
_MASKED = -1e4


def image_tokens(embedding: Tensor, cells: Tensor) -> Tensor:
    """Embeddings (B, 772) and unit cells (B, 16, 96) -> image tokens (B, 25, 96)."""
    rows = embedding[:, :EMBEDDING].reshape(-1, EMBEDDING_ROWS, WORD_DIM)
    hub = functional.pad(embedding[:, EMBEDDING:], (0, WORD_DIM - EXTRA))[:, None]
    return torch.cat([rows, hub, cells], 1)


class CrossEncoder(nn.Module):
    """Text side and stored image tokens to match probabilities."""

    mean: Tensor
    deviation: Tensor
    word_mean: Tensor
    word_deviation: Tensor
    calibration: Tensor

    def __init__(self, *, hidden: int = 48, dropout: float = 0.2) -> None:
        super().__init__()
        for name, count in (("", PAIR_FEATURES), ("word_", WORD_FEATURES)):
            self.register_buffer(f"{name}mean", torch.zeros(count))
            self.register_buffer(f"{name}deviation", torch.ones(count))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.scale = nn.Parameter(torch.tensor(30.0))
        self.members = nn.ModuleList(_Member(hidden, dropout) for _ in range(MEMBERS))

    def forward(
        self,
        text_embedding: Tensor,
        text_tokens: Tensor,
        attention_mask: Tensor,
        image_tokens: Tensor,
        image_token_scales: Tensor,
    ) -> Tensor:
        """Pairs: (B, 772), (B, T, 96), int64 (B, T), int8 (B, 25, 96), (B, 25) -> probability (B,)."""
        rows = image_tokens.to(text_tokens.dtype) * image_token_scales[:, :, None]
        score = self.logits(text_embedding, text_tokens, attention_mask.to(text_tokens.dtype), rows).mean(0)
        return torch.sigmoid(self.calibration[0] * score + self.calibration[1])

    def logits(self, text: Tensor, words: Tensor, present: Tensor, rows: Tensor) -> Tensor:
        """The logit of each member before calibration: (members, B)."""
        pairs, singles = compare(text, words, present, rows)
        base = self.scale * pairs[:, 0]
        pairs = (pairs - self.mean) / self.deviation
        singles = torch.cat(
            [(singles[..., :WORD_FEATURES] - self.word_mean) / self.word_deviation, singles[..., WORD_FEATURES:]], -1
        )
        return torch.stack([base + member(pairs, singles, present) for member in self.members])


class _Member(nn.Module):
    """Reads every word with its matches, adds them up, and reads the sum together with the pair."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.sense = nn.Linear(WORD_DIM, _PROJECTED, bias=False)
        self.word = nn.Sequential(
            nn.Linear(WORD_FEATURES + _PROJECTED, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden // 2)
        )
        self.pair = nn.Sequential(
            nn.Linear(PAIR_FEATURES + hidden // 2, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )
        for name in ("weight", "bias"):
            nn.init.zeros_(self.pair[-1].get_parameter(name))

    def forward(self, pairs: Tensor, singles: Tensor, present: Tensor) -> Tensor:
        matches, words = singles[..., :WORD_FEATURES], singles[..., WORD_FEATURES:]
        read = self.word(torch.cat([matches, self.sense(words) * WORD_DIM**0.5], -1)) * present[..., None]
        result: Tensor = self.pair(torch.cat([pairs, read.sum(1) / present.sum(1, keepdim=True) ** 0.5], -1))[:, 0]
        return result


def compare(text: Tensor, words: Tensor, present: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The features of pairs that the networks read; sums, maxima and means only, so padding does not matter.

    Args:
        text: unit (B, 772).
        words: unit vectors times the words' weights (B, T, 96).
        present: 1 for tokens, 0 for padding (B, T).
        rows: dequantised image tokens (B, 25, 96).

    Returns:
        Pair features (B, 13), the first is the bi-encoder's cosine; and per word (B, T, 6 + 96): features of its matches, then its
        unit vector.
    """
    embedding, hub, cells = rows[:, :EMBEDDING_ROWS].flatten(1), rows[:, HUB_ROW, :EXTRA], rows[:, HUB_ROW + 1 :]
    heads = (text[:, :EMBEDDING] * embedding).reshape(-1, HEADS, HEAD_DIM).sum(-1) * (HEADS * LENGTH_SQUARED)  # (B, 2)
    hubs = text[:, EMBEDDING:] * hub  # (B, 4): h(v) / 2, h(t) / 2, and the zeros
    cosine = (text[:, :EMBEDDING] * embedding).sum(-1, keepdim=True) + hubs.sum(-1, keepdim=True)
    weight = words.norm(dim=-1).clamp(min=1e-9) * present  # (B, T)
    unit = words / words.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    similarity = unit @ functional.normalize(cells, dim=-1).transpose(1, 2)  # (B, T, 16)
    best = similarity.topk(3, dim=-1).values  # (B, T, 3)
    count = present.sum(1, keepdim=True)
    top = best[..., 0]
    visible = similarity + (1 - present)[..., None] * _MASKED
    per_cell = visible.amax(1)  # (B, 16): each cell's best word
    pairs = torch.cat(
        [
            cosine,
            heads,
            hubs[:, :2],
            (top * weight).sum(1, keepdim=True),
            (top * present).sum(1, keepdim=True) / count,
            (top + (1 - present)).amin(1, keepdim=True),
            (top - (1 - present)).amax(1, keepdim=True),
            ((top - similarity.mean(-1)) * weight).sum(1, keepdim=True),
            per_cell.mean(1, keepdim=True),
            per_cell.amax(1, keepdim=True) - per_cell.amin(1, keepdim=True),
            count.log(),
        ],
        -1,
    )
    singles = torch.cat(
        [best, similarity.mean(-1, keepdim=True), similarity.amin(-1, keepdim=True), (weight * count)[..., None], unit], -1
    )
    return pairs, singles
