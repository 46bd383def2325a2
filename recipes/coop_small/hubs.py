"""The hub correction: images and texts that resemble everything are moved down in every ranking.

The hub value of an image is the mean of its highest cosines to a fixed bank of training captions, that of a text the same over
training images; the score of a pair is its cosine less half of both hub values. (Bogolin et al. 2022, "Cross modal retrieval with
querybank normalisation"; Chowdhury et al. 2024, "Nearest neighbor normalization improves multimodal retrieval".)

Four more dimensions carry it, so that the search index, the cross-encoder and every server see plain unit vectors: with
s^2 = 1/2 and L^2 = 2, so that both are unit vectors whatever the hub values,

    text  = [t, s, -h(t) / 2s, rest, 0] / L
    image = [v, -h(v) / 2s, s, 0, rest] / L

their cosine is (t . v - h(v) / 2 - h(t) / 2) / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHARE = 0.5
BALANCE = 0.5**0.5
LENGTH_SQUARED = 2.0
EXTRA = 4
BANK = (3072, 2048)
"""The number of texts, and of images, in the banks."""
NEAREST = (11, 7)
"""The number of highest cosines that make the hub value of an image, and of a text."""


class Hubs(nn.Module):
    """Adds the hub dimensions to unit vectors of one kind, from a bank of unit vectors of the other kind."""

    bank: Tensor

    def __init__(self, bank: Tensor, nearest: int, *, images: bool) -> None:
        """`bank`: (m, D); `nearest`: how many of the highest cosines are averaged; `images`: what the vectors are of."""
        super().__init__()
        self.bank = nn.Parameter(bank, requires_grad=False)
        self.nearest, self.images = nearest, images

    def value(self, vectors: Tensor) -> Tensor:
        """Unit vectors (B, D) -> hub values (B,)."""
        nearest: Tensor = (vectors @ self.bank.T).topk(self.nearest, dim=-1).values
        return nearest.mean(dim=-1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Unit vectors (B, D) -> unit vectors (B, D + 4)."""
        hub = -SHARE * self.value(vectors)[:, None] / BALANCE
        balance = torch.full_like(hub, BALANCE)
        rest = (LENGTH_SQUARED - 1 - BALANCE**2 - hub * hub).clamp(min=1e-6).sqrt()
        none = torch.zeros_like(hub)
        extra = (hub, balance, none, rest) if self.images else (balance, hub, rest, none)
        longer: Tensor = torch.cat([vectors, *extra], dim=-1) / LENGTH_SQUARED**0.5
        return longer
