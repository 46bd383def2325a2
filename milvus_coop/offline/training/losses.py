"""Contrastive and listwise losses. All have a log-sum-exp form, so that masks cost nothing."""

from __future__ import annotations

import torch
from torch import Tensor

_EXCLUDED = -1e9


def softmax_over_positives(logits: Tensor, positive: Tensor) -> Tensor:
    """Multi-positive InfoNCE: the mean over rows of -log(the positives' share of the softmax).

    Args:
        logits: (n, m).
        positive: bool (n, m). Rows without a positive do not count.
    """
    everything = logits.logsumexp(1)
    right = logits.masked_fill(~positive, _EXCLUDED).logsumexp(1)
    counted = positive.any(1)
    return ((everything - right) * counted).sum() / counted.sum().clamp(min=1)


def info_nce(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord 2018) in which other pairs with the same label are left out of the denominator.

    Args:
        logits: (n, n). Row i belongs to column i.
        same: bool (n, n), True where row and column mean the same. The diagonal always holds the positives.
    """
    identity = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    masked = logits.masked_fill(same & ~identity, _EXCLUDED)
    targets = torch.arange(len(logits), device=logits.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(masked, targets) + cross_entropy(masked.T, targets)) / 2
