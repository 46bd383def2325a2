"""One optimiser step, and the learning-rate curve that all trainings share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Descent:
    """AdamW with warm-up and cosine decay to zero.

    Args:
        groups: parameter groups, each with its own peak `lr`.
        steps: how many steps will be taken.
        warm_up: over how many of them the rate rises.
        weight_decay: decoupled (Loshchilov & Hutter 2019).
    """

    def __init__(self, groups: list[dict[str, object]], *, steps: int, warm_up: int, weight_decay: float = 0.05) -> None:
        self._optimiser = torch.optim.AdamW(groups, weight_decay=weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser,
            lambda step: min((step + 1) / max(1, warm_up), 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))),
        )

    def step(self, loss: Tensor) -> float:
        """Take one step down the gradient of `loss`; returns its value."""
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._optimiser.step()
        self._schedule.step()
        return loss.item()
