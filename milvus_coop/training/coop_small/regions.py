"""What stands in each cell of the 4 x 4 grid, as short vectors that a caption's words can look for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.training.coop_small.layout import KEY_DIM, KEY_ROWS, TOKEN_DIM
from milvus_coop.training.efficientnet_lite import FEATURES

COMPRESSED = 256
"""Principal components of the cells' features that the head reads."""


class CellCompressor(nn.Module):
    """Fixed: a cell's features to its main components, of about unit size."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(FEATURES, COMPRESSED).requires_grad_(False)

    def forward(self, cells: Tensor) -> Tensor:
        """(..., 1280) -> (..., 256)."""
        result: Tensor = self.line(cells)
        return result


def compressor_of(weight: Tensor, bias: Tensor) -> CellCompressor:
    """The compressor with these numbers, (256, 1280) and (256,)."""
    compressor = CellCompressor()
    compressor.line.weight.copy_(weight)
    compressor.line.bias.copy_(bias)
    return compressor.eval()


def fit_compressor(cells: Tensor) -> CellCompressor:
    """The principal components of cells (n, 1280), divided by their standard deviation over all."""
    centre = cells.mean(0)
    centred = cells - centre
    spread, directions = torch.linalg.eigh(centred.T @ centred / len(cells))  # ascending
    directions = directions[:, -COMPRESSED:].flip(1) / spread[-COMPRESSED:].mean().sqrt()
    return compressor_of(directions.T, -(centre @ directions))


class RegionHead(nn.Module):
    """The cell's tag, corrected by what a small network makes of its features."""

    def __init__(self, *, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        last = nn.Linear(hidden, KEY_DIM)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(COMPRESSED, hidden), nn.GELU(), nn.Dropout(dropout), last)

    def forward(self, regions: Tensor, compressed: Tensor) -> Tensor:
        """Region rows (B, 16, 64) and compressed features (B, 16, 256) -> unit keys (B, 16, 32)."""
        tags = functional.normalize(regions[..., :KEY_DIM], dim=-1)
        result: Tensor = functional.normalize(tags + self.net(compressed), dim=-1)
        return result


def key_rows(keys: Tensor) -> Tensor:
    """Keys (B, 16, 32) as token rows (B, 8, 64)."""
    return keys.reshape(-1, KEY_ROWS, TOKEN_DIM)
