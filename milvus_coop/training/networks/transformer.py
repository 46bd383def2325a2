"""Transformer layers as in BERT (Devlin et al. 2019), whose public checkpoints load into them; or with their norms first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-12
SHARP = 1.5
"""Standard deviation of queries and keys of normed states in a new pre-norm layer."""
MASKED = -1e4
"""Added to the attention logits of padding; exp() of it is exactly 0 in float32 and float16."""

_PUBLIC_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "output_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "final_norm": "output.LayerNorm",
}


class Layer(nn.Module):
    """Self-attention and a feed-forward block.

    Post-norm (BERT): norm(x + f(x)). Pre-norm: x + f(norm(x)); it trains from random weights at higher rates (Xiong et al. 2020).
    """

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float = 0.0, *, norm_first: bool = False, eps: float = LAYER_NORM_EPS
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_first = norm_first
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.final_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        if norm_first:  # PyTorch's start leaves attention nearly uniform: attributes were bound to things three times as late
            for part in (self.query, self.key):
                nn.init.normal_(part.weight, std=SHARP / width**0.5)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, W) and additive mask (B, 1, 1, T) -> states (B, T, W)."""
        if self.norm_first:
            states = states + self._attend(self.output_norm(states), mask)
            return states + self._feed(self.final_norm(states))
        states = self.output_norm(states + self._attend(states, mask))
        result: Tensor = self.final_norm(states + self._feed(states))
        return result

    def _attend(self, states: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            part(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask).softmax(-1)  # (B, H, T, T)
        mixed = (self.dropout(weights) @ value).transpose(1, 2).flatten(2)
        result: Tensor = self.dropout(self.output(mixed))
        return result

    def _feed(self, states: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.narrow(functional.gelu(self.widen(states))))
        return result


def additive_mask(present: Tensor) -> Tensor:
    """Float (B, T), 1 for tokens and 0 for padding -> what `Layer` adds to its logits, (B, 1, 1, T)."""
    return ((1.0 - present) * MASKED)[:, None, None, :]


def layers_from_public(source: Mapping[str, Tensor], count: int, prefix: str = "encoder.layer.") -> dict[str, Tensor]:
    """The first `count` layers of a BERT-like checkpoint, under the names of `nn.ModuleList` `layers`."""
    return {
        f"layers.{index}.{ours}.{part}": source[f"{prefix}{index}.{theirs}.{part}"]
        for index in range(count)
        for ours, theirs in _PUBLIC_NAMES.items()
        for part in ("weight", "bias")
    }


def token_length_axis(longest: int) -> torch.export.Dim:
    """The dynamic token axis of exported graphs."""
    return torch.export.Dim("length", min=2, max=longest)
