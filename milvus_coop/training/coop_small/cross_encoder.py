"""The cross-encoder: agreement between a caption's words and a picture's stored rows, then a small network.

It starts as the bi-encoder's cosine and adds a residual that begins at zero, so that it cannot start worse. For captions of several
things, what `positions` finds is added.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.training.coop_small.layout import CELLS, EMBEDDING, KEY_DIM, KEYS, REGIONS, TAG_ROWS, TAGS
from milvus_coop.training.coop_small.positions import PositionCheck

_BEST = 4
_MASKED = -1e4
_TINY = 1e-6
MEMBERS = 3
"""Networks whose residuals are averaged."""
STRENGTH = 0.6
"""Share of the residual that is used; each network is trained at full strength. Chosen on the training stamps."""
POSITION_STRENGTH = 0.5
"""Share of the position check that is used. Chosen on the dev scenes and the training stamps."""
AGREEMENT_FEATURES = 1 + 3 * TAG_ROWS + 3 + 2 * _BEST + 4


class CrossEncoder(nn.Module):
    """Text side and stored image tokens -> match probability."""

    basis: Tensor
    mean: Tensor
    deviation: Tensor
    calibration: Tensor

    def __init__(self, basis: Tensor, *, hidden: int = 64, dropout: float = 0.2) -> None:
        """`basis`: orthonormal columns (384, 64), the projection that the tokens were made with."""
        super().__init__()
        self.register_buffer("basis", basis.contiguous())
        self.register_buffer("mean", torch.zeros(AGREEMENT_FEATURES))
        self.register_buffer("deviation", torch.ones(AGREEMENT_FEATURES))
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.nets = nn.ModuleList(_residual_net(hidden, dropout) for _ in range(MEMBERS))
        self.positions = PositionCheck()
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def forward(
        self,
        text_embedding: Tensor,
        text_tokens: Tensor,
        attention_mask: Tensor,
        image_tokens: Tensor,
        image_token_scales: Tensor,
    ) -> Tensor:
        """Pairs: (B, 384), (B, T, 64), int64 (B, T), int8 (B, 38, 64), (B, 38) -> probability (B,)."""
        rows = image_tokens.to(text_tokens.dtype) * image_token_scales[:, :, None]
        score = self.pair_score(text_embedding, text_tokens, attention_mask, rows)
        return torch.sigmoid(self.calibration[0] * score + self.calibration[1])

    def pair_score(self, sentence: Tensor, words: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Logit before calibration (B,); the arguments as of `agreement`."""
        places: Tensor = self.positions(words, mask, rows[:, KEYS].reshape(-1, CELLS, KEY_DIM))
        return self.score(agreement(sentence, words, mask, rows, self.basis)) + POSITION_STRENGTH * places

    def score(self, features: Tensor) -> Tensor:
        """Agreement features (..., F) -> logit before calibration and without positions (...)."""
        return self.scale * features[..., 0] + STRENGTH * self.residuals(features).mean(0)

    def residuals(self, features: Tensor) -> Tensor:
        """(..., F) -> what each network adds (MEMBERS, ...)."""
        standard = (features - self.mean) / self.deviation
        return torch.stack([net(standard)[..., 0] for net in self.nets])


def _residual_net(hidden: int, dropout: float) -> nn.Sequential:
    """Two hidden layers; the output starts at zero."""
    last = nn.Linear(hidden // 2, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(AGREEMENT_FEATURES, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden // 2),
        nn.GELU(),
        last,
    )


def agreement(sentence: Tensor, words: Tensor, mask: Tensor, rows: Tensor, basis: Tensor) -> Tensor:
    """What the small network sees of a pair; sums and maxima only, so padding and order of pairs do not matter.

    Args:
        sentence: unit (B, 384).
        words: (B, T, 64).
        mask: int64 (B, T).
        rows: dequantised image tokens (B, 38, 64).
        basis: (384, 64).

    Returns:
        (B, AGREEMENT_FEATURES); the first is the bi-encoder's cosine.
    """
    cosine = (sentence * rows[:, EMBEDDING].flatten(1)).sum(-1, keepdim=True)
    sense = functional.normalize(sentence @ basis, dim=-1)[:, :, None]  # (B, 64, 1)
    present = mask.to(words.dtype)
    tokens = functional.normalize(words, dim=-1)
    tags, regions = rows[:, TAGS], rows[:, REGIONS]
    probability = tags.norm(dim=-1).clamp(min=_TINY)  # (B, 8); not `+ _TINY`, which the exporter drops as zero
    directions = tags / probability[:, :, None]
    tag_sense = (directions @ sense)[..., 0]  # (B, 8)
    tag_words = _best_word(tokens, present, directions)  # (B, 8)
    region_sense = (functional.normalize(regions, dim=-1) @ sense)[..., 0]  # (B, 16)
    region_words = _best_word(tokens, present, functional.normalize(regions, dim=-1))
    word_tags = _mean_over_words((tokens @ directions.transpose(1, 2)).amax(-1), present)
    word_regions = _mean_over_words((tokens @ functional.normalize(regions, dim=-1).transpose(1, 2)).amax(-1), present)
    expected = (probability * tag_sense).sum(-1, keepdim=True)
    return torch.cat(
        [
            cosine,
            probability,
            tag_sense,
            tag_words,
            expected,
            tag_sense.amax(-1, keepdim=True),
            tag_words.amax(-1, keepdim=True),
            region_sense.topk(_BEST, dim=-1).values,
            region_words.topk(_BEST, dim=-1).values,
            region_sense.mean(-1, keepdim=True),
            region_words.mean(-1, keepdim=True),
            word_tags,
            word_regions,
        ],
        dim=-1,
    )


def _best_word(tokens: Tensor, present: Tensor, targets: Tensor) -> Tensor:
    """For each target direction (B, M, 64) the cosine of the closest word of the caption: (B, M)."""
    similarity = targets @ tokens.transpose(1, 2) + (1.0 - present)[:, None, :] * _MASKED
    return similarity.amax(-1)


def _mean_over_words(values: Tensor, present: Tensor) -> Tensor:
    return (values * present).sum(-1, keepdim=True) / present.sum(-1, keepdim=True)
