"""EfficientNet-Lite (0 to 4) as a feature map and a classifier, batch norms folded into the convolutions.

Architecture: Tan & Le 2019 with the "lite" changes (no squeeze-and-excite, ReLU6, stem and head not scaled).
Parameter names follow the public PyTorch port, so that its checkpoints load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Variant = Literal["lite0", "lite2"]

# width coefficient, depth coefficient, input size in px
_SCALING: dict[Variant, tuple[float, float, int]] = {"lite0": (1.0, 1.0, 224), "lite2": (1.1, 1.2, 260)}
# repeats, kernel, stride, expansion, input channels, output channels
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_BATCH_NORM_EPS = 1e-3
PIXEL_MEAN = 127.0
PIXEL_STD = 128.0
FEATURES = 1280


def input_size(variant: Variant) -> int:
    """Side of the square input in pixels."""
    return _SCALING[variant][2]


def grid_size(variant: Variant) -> int:
    """Side of the final feature map. The input is halved five times, rounding up."""
    return math.ceil(input_size(variant) / 32)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding for a known input size, and a bias (the folded batch norm)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=True)
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        self._same = (total // 2, total - total // 2) * 2

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        result: Tensor = super().forward(functional.pad(image, self._same) if any(self._same) else image)
        return result


class _Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise kxk, project 1x1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, size: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConv(inputs, hidden, 1, size) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, size, stride, groups=hidden)
        self.project = SameConv(hidden, outputs, 1, math.ceil(size / stride))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, image: Tensor) -> Tensor:
        hidden = functional.relu6(self.expand(image)) if self.expand is not None else image
        hidden = self.project(functional.relu6(self.depthwise(hidden)))
        result: Tensor = image + hidden if self.residual else hidden
        return result


class EfficientNetLite(nn.Module):
    """The backbone in inference form. Batch norms are folded while loading, so it is not meant to be trained."""

    def __init__(self, variant: Variant, classes: int = 1000) -> None:
        super().__init__()
        width, depth, size = _SCALING[variant]
        last_stage = len(_STAGES) - 1
        size = math.ceil(size / 2)
        self.stem = SameConv(3, 32, 3, size * 2, stride=2)
        blocks: list[nn.Module] = []
        for stage, (repeats, kernel, stride, expansion, inputs, outputs) in enumerate(_STAGES):
            fixed = stage in (0, last_stage)
            channels = 32 if stage == 0 else _round_channels(inputs, width)
            for repeat in range(repeats if fixed else math.ceil(depth * repeats)):
                step = stride if repeat == 0 else 1
                blocks.append(_Block(channels, _round_channels(outputs, width), kernel, step, expansion, size))
                size = math.ceil(size / step)
                channels = _round_channels(outputs, width)
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(channels, FEATURES, 1, size)
        self.classifier = nn.Linear(FEATURES, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 RGB of shape (B, 3, S, S) -> feature map (B, 1280, G, G), float32, values in [0, 6]."""
        return self.feature_map((pixels.float() - PIXEL_MEAN) / PIXEL_STD)

    def feature_map(self, normalised: Tensor) -> Tensor:
        """Normalised pixels, (pixel - mean) / deviation, (B, 3, S, S) -> feature map (B, 1280, G, G)."""
        hidden = functional.relu6(self.stem(normalised))
        for block in self.blocks:
            hidden = block(hidden)
        return functional.relu6(self.head(hidden))


def load_efficientnet_lite(variant: Variant, checkpoint: Path) -> EfficientNetLite:
    """Read the public port's checkpoint and fold its batch norms. The network is frozen and in eval mode."""
    source = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = EfficientNetLite(variant)
    _fold(model.stem, source, "_conv_stem", "_bn0")
    _fold(model.head, source, "_conv_head", "_bn1")
    for index, block in enumerate(block for block in model.blocks if isinstance(block, _Block)):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            _fold(block.expand, source, f"{prefix}_expand_conv", f"{prefix}_bn0")
        _fold(block.depthwise, source, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        _fold(block.project, source, f"{prefix}_project_conv", f"{prefix}_bn2")
    model.classifier.load_state_dict({"weight": source["_fc.weight"], "bias": source["_fc.bias"]})
    return model.eval().requires_grad_(False)


def _round_channels(channels: int, width: float) -> int:
    """Scale to a multiple of 8 that is not below 90 % of the exact value (the reference implementation's rule)."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


@torch.no_grad()
def _fold(conv: SameConv, source: Mapping[str, Tensor], conv_name: str, norm_name: str) -> None:
    """Write convolution and batch norm as one convolution: weights w * g / sqrt(v + eps), bias b - m * g / sqrt(v + eps)."""
    gain = source[f"{norm_name}.weight"] / torch.sqrt(source[f"{norm_name}.running_var"] + _BATCH_NORM_EPS)
    weight = source[f"{conv_name}.weight"] * gain[:, None, None, None]
    bias = source[f"{norm_name}.bias"] - source[f"{norm_name}.running_mean"] * gain
    if conv.weight.shape != weight.shape or conv.bias is None:
        raise ValueError(f"{conv_name} has shape {tuple(weight.shape)}, expected {tuple(conv.weight.shape)}")
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
