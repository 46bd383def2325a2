"""Published pretraining objectives of networks that read text and image together: masked words, and matched pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHOSEN = 0.15
"""Share of word pieces that have to be filled in."""
MASKED, REPLACED = 0.8, 0.1
"""Of those: the share that the mask hides, and the share that becomes a random word; the rest stays as it is."""


class Masked(NamedTuple):
    """Texts in which words are missing."""

    input_ids: Tensor
    """int64 (B, T), with the random words."""
    masked: Tensor
    """bool (B, T), where the mask stands."""
    chosen: Tensor
    """bool (B, T), the word pieces that have to be filled in."""


def mask_words(input_ids: Tensor, attention_mask: Tensor, vocabulary: int, generator: torch.Generator) -> Masked:
    """Choose word pieces and hide them, as BERT does (Devlin et al. 2019), which VisualBERT and UNITER took over.

    15 % of the word pieces are chosen, and at least one of each text (UNITER, Chen et al. 2020). Of those 80 % are masked, 10 %
    become a random word of the vocabulary, and 10 % stay. The first and the last token of a text are special, and never chosen.

    Args:
        input_ids: int64 (B, T), padded on the right.
        attention_mask: int64 (B, T).
        vocabulary: number of words.
        generator: source of chance, on the CPU.
    """
    shape, device = input_ids.shape, input_ids.device
    present = attention_mask.bool().cpu()
    inner = present.clone()
    inner[:, 0] = False
    inner[torch.arange(shape[0]), present.sum(1) - 1] = False
    dice = torch.rand(shape, generator=generator).masked_fill(~inner, 2.0)
    chosen = dice < CHOSEN
    least = dice.argmin(1)
    chosen[torch.arange(shape[0]), least] |= inner[torch.arange(shape[0]), least]
    fate = torch.rand(shape, generator=generator)
    words = torch.randint(vocabulary, shape, generator=generator)
    masked, replaced = chosen & (fate < MASKED), chosen & (fate >= 1 - REPLACED)
    ids = torch.where(replaced.to(device), words.to(device), input_ids)
    return Masked(ids, masked.to(device), chosen.to(device))


def fill_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Mean of -log p(word) over the word pieces that were chosen.

    Args:
        logits: (n, vocabulary).
        words: int64 (n,); where n is 0 the loss is 0.
    """
    return functional.cross_entropy(logits.float(), words, reduction="sum") / max(1, len(words))


def coin_loss(logits: Tensor, matched: Tensor) -> Tensor:
    """Binary cross-entropy over pairs that match or do not: image-text matching of UNITER (Chen et al. 2020).

    Args:
        logits: (B,).
        matched: bool (B,).
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), matched.float())
