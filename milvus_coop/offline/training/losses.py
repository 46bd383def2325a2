"""Contrastive and listwise losses. Log-sum-exp forms throughout, so that masks cost nothing."""

from __future__ import annotations

import torch
from torch import Tensor

_EXCLUDED = -1e9


def softmax_over_positives(logits: Tensor, positive: Tensor) -> Tensor:
    """Mean over rows of -log(sum of the positives' share): multi-positive InfoNCE.

    Args:
        logits: (n, m).
        positive: bool (n, m); rows without a positive do not count.
    """
    everything = logits.logsumexp(1)
    right = logits.masked_fill(~positive, _EXCLUDED).logsumexp(1)
    counted = positive.any(1)
    return ((everything - right) * counted).sum() / counted.sum().clamp(min=1)


def info_nce(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord 2018) where other pairs with the same label are left out of the denominator.

    Args:
        logits: (n, n), row i belongs to column i.
        same: bool (n, n), True where row and column mean the same; the diagonal is always the positive.
    """
    identity = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    masked = logits.masked_fill(same & ~identity, _EXCLUDED)
    targets = torch.arange(len(logits), device=logits.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(masked, targets) + cross_entropy(masked.T, targets)) / 2
