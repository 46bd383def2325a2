"""Published pretraining objectives for networks that read text and image together: masked words, and matched pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHOSEN = 0.15
"""Share of word pieces that the network has to fill in."""
MASKED, REPLACED = 0.8, 0.1
"""Shares of these word pieces that the mask hides, and that become a random word. The others stay unchanged."""


class Masked(NamedTuple):
    """Texts in which some words are masked or replaced."""

    input_ids: Tensor
    """Token ids with the random words, int64 (B, T)."""
    masked: Tensor
    """True where the mask hides a word, bool (B, T)."""
    chosen: Tensor
    """True for the word pieces that have to be filled in, bool (B, T)."""


def mask_words(input_ids: Tensor, attention_mask: Tensor, vocabulary: int, generator: torch.Generator) -> Masked:
    """Choose word pieces and hide them, as BERT (Devlin et al. 2019), VisualBERT and UNITER do.

    15 % of the word pieces are chosen, and at least one of each text (UNITER, Chen et al. 2020). 80 % of these are masked, 10 %
    become a random word of the vocabulary, and 10 % stay. The first and the last token of a text are special and never chosen.

    Args:
        input_ids: int64 (B, T), padded on the right.
        attention_mask: int64 (B, T).
        vocabulary: number of words.
        generator: random generator, on the CPU.
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
    """The mean of -log p(word) over the chosen word pieces.

    Args:
        logits: (n, vocabulary).
        words: int64 (n,). If n is 0, the loss is 0.
    """
    return functional.cross_entropy(logits.float(), words, reduction="sum") / max(1, len(words))


def coin_loss(logits: Tensor, matched: Tensor) -> Tensor:
    """Binary cross-entropy over pairs that match or do not match: the image-text matching of UNITER (Chen et al. 2020).

    Args:
        logits: (B,).
        matched: bool (B,).
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), matched.float())
