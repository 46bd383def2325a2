"""Losses of the cross-encoder, over logits of pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def match_loss(matched: Tensor, mismatched: Tensor) -> Tensor:
    """Binary cross-entropy of matched and mismatched pairs: -(mean log p(matched) + mean log(1 - p(mismatched))) / 2.

    As in Geigle et al. 2022, there is one mismatched pair for each matched one. Their code has a softmax over two logits. The one
    logit here is the difference of the two.

    Args:
        matched: logits (B,) of pairs that belong together.
        mismatched: logits (B',) of pairs that do not.
    """
    entropy = functional.binary_cross_entropy_with_logits
    positive = entropy(matched, torch.ones_like(matched))
    return (positive + entropy(mismatched, torch.zeros_like(mismatched))) / 2


def block_loss(logits: Tensor, same: Tensor) -> Tensor:
    """InfoNCE in both directions within small blocks of pairs that are hard to tell apart, on the cross-encoder's logits.

    Each of the n² scored pairs is used twice, so a block teaches more than a list for the same work.

    Args:
        logits: (B, n, n), for text i with image j of a block.
        same: bool (B, n, n), True where text i and image j are not negatives of each other. The diagonal holds the positives.
    """
    blocks, n, _ = logits.shape
    targets = torch.arange(n, device=logits.device).expand(blocks, n)
    masked = logits.masked_fill(same & ~torch.eye(n, dtype=torch.bool, device=logits.device), float("-inf"))
    return (functional.cross_entropy(masked, targets) + functional.cross_entropy(masked.transpose(1, 2), targets)) / 2


def list_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of choosing the matching pair from a list: -mean_i log softmax(logits_i)_0.

    Args:
        logits: (B, 1 + n). The first pair of a row matches, the n others do not.
    """
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
