"""Vision towers that several families share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PatchStates(nn.Module):
    """Pixels to the states of [CLS] and all patches of a vision transformer."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + patches, width)."""
        states: Tensor = self.tower(pixel_values=pixels).last_hidden_state
        return states


class Pooled(nn.Module):
    """Pixels to the pooled output of a vision transformer, projected if the model has a projection."""

    def __init__(self, tower: nn.Module, project: nn.Module | None = None) -> None:
        super().__init__()
        self.tower, self.project = tower, project or nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, dim)."""
        features: Tensor = self.project(self.tower(pixel_values=pixels).pooler_output)
        return features


class UnitLength(nn.Module):
    """Features to an embedding of unit length."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, dim) -> unit (B, dim)."""
        return functional.normalize(features, dim=-1)
