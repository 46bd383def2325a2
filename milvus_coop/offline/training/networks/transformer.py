"""Transformer layers as in BERT (Devlin et al. 2019), whose public checkpoints can be loaded, or with pre-norm or DeepNorm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-12
SHARP = 1.5
"""Standard deviation of the queries and keys that a new pre-norm layer makes of normed states."""
MASKED = -1e4
"""Number that is added to the attention logits of padding. Its exp() is exactly 0 in float32 and float16."""

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
    DeepNorm (Wang et al. 2022, DeepNet): norm(alpha x + f(x)), with alpha = (2N)^(1/4) for an encoder of N layers. Its values,
    output projection and both matrices of its feed-forward block start from Xavier's normal distribution times
    beta = (8N)^(-1/4), its queries and keys from Xavier's. One update then changes the network by no more than a bound that
    does not grow with N, so that many layers train.

    Args:
        width: W.
        heads: number of attention heads.
        hidden: width of the feed-forward block.
        dropout: share of activations that are dropped.
        norm_first: true for pre-norm.
        eps: epsilon of the layer norms.
        deepnorm: the number of layers N for DeepNorm; 0 for no DeepNorm.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        *,
        norm_first: bool = False,
        eps: float = LAYER_NORM_EPS,
        deepnorm: int = 0,
    ) -> None:
        super().__init__()
        if norm_first and deepnorm:
            raise ValueError("a layer is either pre-norm or DeepNorm")
        self.heads = heads
        self.norm_first = norm_first
        self.alpha = deepnorm_alpha(deepnorm) if deepnorm else 1.0
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.final_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        if norm_first:  # with PyTorch's start attention is nearly uniform, and attributes are bound to things three times as late
            for part in (self.query, self.key):
                nn.init.normal_(part.weight, std=SHARP / width**0.5)
        if deepnorm:
            scaled = (self.value, self.output, self.widen, self.narrow)
            for part in (self.query, self.key, *scaled):
                nn.init.xavier_normal_(part.weight, gain=deepnorm_beta(deepnorm) if part in scaled else 1.0)
                nn.init.zeros_(part.bias)  # a bias is not scaled by its input, so it would undo the small start

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, W) and additive mask (B, 1, 1, T) -> states (B, T, W)."""
        if self.norm_first:
            states = states + self._attend(self.output_norm(states), mask)
            return states + self._feed(self.final_norm(states))
        states = self.output_norm(self._kept(states) + self._attend(states, mask))
        result: Tensor = self.final_norm(self._kept(states) + self._feed(states))
        return result

    def _kept(self, states: Tensor) -> Tensor:
        return states if self.alpha == 1.0 else self.alpha * states  # no multiplication by 1 in exported graphs

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


def deepnorm_alpha(layers: int) -> float:
    """DeepNorm's factor for the residual in an encoder of so many layers (Wang et al. 2022, table 1, encoder-only)."""
    return float((2 * layers) ** 0.25)


def deepnorm_beta(layers: int) -> float:
    """DeepNorm's factor for the starting weights (Wang et al. 2022, table 1, encoder-only)."""
    return float((8 * layers) ** -0.25)


def additive_mask(present: Tensor) -> Tensor:
    """The mask that `Layer` adds to its logits, (B, 1, 1, T), from floats (B, T) that are 1 at tokens and 0 at padding."""
    return ((1.0 - present) * MASKED)[:, None, None, :]


def layers_from_public(source: Mapping[str, Tensor], count: int, prefix: str = "encoder.layer.") -> dict[str, Tensor]:
    """The first `count` layers of a BERT-like checkpoint, renamed as in an `nn.ModuleList` named `layers`."""
    return {
        f"layers.{index}.{ours}.{part}": source[f"{prefix}{index}.{theirs}.{part}"]
        for index in range(count)
        for ours, theirs in _PUBLIC_NAMES.items()
        for part in ("weight", "bias")
    }


def token_length_axis(longest: int) -> torch.export.Dim:
    """The dynamic token axis of exported graphs."""
    return torch.export.Dim("length", min=2, max=longest)
