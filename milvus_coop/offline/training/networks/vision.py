"""A common form for vision backbones: uint8 pixels in, feature vectors of cells or regions out, and a configuration on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.networks.backbones import Kind, build_backbone
from milvus_coop.records import read_file

CONFIG_FILE = "vision.json"
WEIGHTS_FILE = "vision.safetensors"


@dataclass(frozen=True)
class VisionConfig:
    """The configuration of a backbone, from which it is built again and its pixels are prepared."""

    kind: Kind
    image: ImageSpec
    own_side: int
    """The backbone's own grid has `own_side` x `own_side` cells."""
    side: int
    """The grid is pooled to `side` x `side` cells."""
    features: int
    """Number of features per cell."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the kind, such as channel widths or a transformers configuration."""

    @property
    def cells(self) -> int:
        """The number of feature vectors per image: the cells of the grid, or the regions of a detector."""
        regions: int = self.options.get("regions", self.side * self.side)
        return regions


class Vision(nn.Module):
    """Normalises pixels, runs the backbone, pools its grid."""

    pool: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: VisionConfig, backbone: nn.Module | None = None) -> None:
        """`backbone` has trained weights. If it is None, a backbone with random weights is made."""
        super().__init__()
        self.config = config
        self.backbone = backbone if backbone is not None else build_backbone(config.kind, config.options)
        self.register_buffer("pool", cell_weights(config.own_side, config.side), persistent=False)
        for name, values in (("mean", config.image.mean), ("std", config.image.std)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> features (B, cells, F) in reading order."""
        cells: Tensor = self.backbone((pixels.float() - self.mean) / self.std)
        return self.pool @ cells if self.config.side != self.config.own_side else cells


def cell_weights(own_side: int, side: int) -> Tensor:
    """A matrix (side², own_side²) for the adaptive average pooling of a square grid. Every exporter can export it."""
    weights = torch.zeros(side * side, own_side, own_side)
    for cell in range(side * side):
        (top, bottom), (left, right) = ((i * own_side // side, -(-(i + 1) * own_side // side)) for i in divmod(cell, side))
        weights[cell, top:bottom, left:right] = 1.0 / ((bottom - top) * (right - left))
    return weights.flatten(1)


def save_vision(vision: Vision, folder: Path) -> None:
    """Write a backbone's configuration and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(vision.config), indent=2) + "\n", "utf-8")
    save_file({name: value.contiguous() for name, value in vision.state_dict().items()}, folder / WEIGHTS_FILE)


def load_vision(folder: Path) -> Vision:
    """Read what `save_vision` wrote. The backbone is in eval mode.

    Raises:
        TrainingError: the configuration cannot be read, or a field of it has a wrong value.
    """
    vision = Vision(read_file(VisionConfig, folder / CONFIG_FILE, TrainingError))
    vision.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return vision.eval()
