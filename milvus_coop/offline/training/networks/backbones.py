"""The kinds of vision backbone. All of them map normalised pixels (B, 3, S, S) to vectors of cells or regions (B, N, F)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from milvus_coop.offline.training.efficientnet_lite import EfficientNetLite
from milvus_coop.offline.training.networks.detector import RegionDetector

Kind = Literal["conv", "detector", "efficientnet-lite0", "transformers"]


class ConvBackbone(nn.Module):
    """A small convolutional network to be trained from scratch. Each stage halves the image."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for inputs, outputs in pairwise((3, *widths)):
            stages += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()]
            stages += [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()]
        self.stages = nn.Sequential(*stages)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, G * G, F) with G = S / 2^stages."""
        result: Tensor = self.stages(pixels).flatten(2).transpose(1, 2)
        return result


class LiteBackbone(nn.Module):
    """EfficientNet-Lite0 up to its last feature map."""

    def __init__(self, network: EfficientNetLite | None = None) -> None:
        super().__init__()
        self.network = network or EfficientNetLite("lite0")

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 224, 224) -> (B, 49, 1280)."""
        return self.network.feature_map(pixels).flatten(2).transpose(1, 2)


class TransformersBackbone(nn.Module):
    """A vision model of transformers. It gives the patches of a vision transformer or the last map of a convolutional network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, G * G, F)."""
        states: Tensor = self.model(pixel_values=pixels).last_hidden_state
        if states.ndim == 4:  # (B, F, G, G)
            return states.flatten(2).transpose(1, 2)
        side = int(states.shape[1] ** 0.5)
        return states[:, states.shape[1] - side * side :]  # without the class and register tokens, which come first


def transformers_model(options: Mapping[str, Any]) -> nn.Module:
    """The vision model of a transformers configuration, with random weights. A CLIP-like model loses its text tower."""
    from transformers import AutoConfig, AutoModel

    settings = dict(options)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return vision_tower(AutoModel.from_config(config))  # type: ignore[no-untyped-call]


def vision_tower(model: nn.Module) -> nn.Module:
    """The vision tower of a CLIP-like model. Any other model is returned unchanged."""
    tower: nn.Module = getattr(model, "vision_model", model)
    return tower


def build_backbone(kind: Kind, options: Mapping[str, Any]) -> nn.Module:
    """A backbone of that kind, with random weights."""
    if kind == "conv":
        return ConvBackbone(options["widths"])
    if kind == "detector":
        with_hidden = options.get("with_hidden", True)
        return RegionDetector(options["stages"], options["attributes"], options["regions"], with_hidden=with_hidden)
    return LiteBackbone() if kind == "efficientnet-lite0" else TransformersBackbone(transformers_model(options))
