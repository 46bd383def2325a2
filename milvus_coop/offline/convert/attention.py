"""Cross-attention that projects the few words instead of the many image tokens. The result is the same with far fewer products.

A cross-encoder such as BLIP projects all N image tokens to keys and values in every layer, for every pair. This takes 4 N W²
products, nine tenths of its work. Both projections are linear, so they can be applied on the other side:
q · (K x) = (Kᵀ q) · x, and Σ a (V x) = V (Σ a x). With T words and H heads this takes 4 T H N W products. The ratio is T H / W,
which for BLIP and 8 words is an eighth. (The same step, "weight absorption", makes multi-head latent attention cheap:
DeepSeek-V2, 2024, section 2.1.) A key's bias adds the same number to all scores of a query, so it does not change the softmax.
A value's bias is added once, since the weights sum to 1.
"""

from __future__ import annotations

from torch import Tensor, nn


class AbsorbedCrossAttention(nn.Module):
    """Multi-head attention of words to image tokens, without the output projection."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.heads = query, key, value, heads

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Words (B, T, W), image tokens (B, N, D) -> (B, T, W)."""
        batch, length, width = states.shape
        per_head = width // self.heads
        queries = self.query(states).view(batch, length, self.heads, per_head).transpose(1, 2) * per_head**-0.5  # (B, H, T, W / H)
        keys = self.key.weight.view(self.heads, per_head, -1)  # (H, W / H, D)
        moved = (queries @ keys).flatten(1, 2)  # (B, H * T, D)
        weights = (moved @ tokens.transpose(1, 2)).softmax(-1)  # (B, H * T, N)
        seen = (weights @ tokens).view(batch, self.heads, length, -1)  # (B, H, T, D)
        values = self.value.weight.view(self.heads, per_head, -1).transpose(1, 2)  # (H, D, W / H)
        result: Tensor = (seen @ values).transpose(1, 2).reshape(batch, length, width) + self.value.bias
        return result
