"""The configuration of a transformers image processor -> our `ImageSpec`, which reproduces it to the pixel without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import ConvertError
from milvus_coop.preprocess.images import LONGEST_OF_EDGE

_RESAMPLING: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_RESCALE = 1 / 255
_DETECTOR_LIKE = ("Vilt", "BridgeTower")
"""Processors that bound the longer edge and round both to multiples of `size_divisor`."""


def image_spec_of(processor: Any, name: str, model_size: int | None = None) -> ImageSpec:
    """How a checkpoint's own processor makes its pixels.

    Args:
        processor: an image processor of transformers.
        name: of the checkpoint, for messages.
        model_size: pixels per side that the model has positions for; None: any.

    Raises:
        ConvertError: it does something that `ImageSpec` cannot say, or makes pictures that the model does not take.
    """
    settings: dict[str, Any] = processor.to_dict()
    _check(settings, name)
    mean, std = (0.0,) * 3, (1.0,) * 3
    if settings.get("do_normalize", True):
        mean, std = _three(settings.get("image_mean"), name), _three(settings.get("image_std"), name)
    common: dict[str, Any] = {
        "mean": mean,
        "std": std,
        "resampling": _RESAMPLING[int(settings["resample"])],
        "full_decode": True,
    }
    spec = _fitted(type(processor).__name__, settings, common, name)
    if model_size is not None and spec.size != model_size:
        raise ConvertError(f"the processor of {name} makes {spec.size} px", expected=f"{model_size} px, as its model takes them")
    return spec


def _fitted(kind: str, settings: Mapping[str, Any], common: Mapping[str, Any], name: str) -> ImageSpec:
    size = settings["size"]
    edge = size.get("shortest_edge")
    crops = bool(settings.get("do_center_crop"))
    if edge is None:
        if crops and _square(settings.get("crop_size"), name) != _square(size, name):
            raise ConvertError(f"{name} crops after stretching", expected="one of the two")
        return ImageSpec(size=_square(size, name), fit="stretch", **common)
    detector_like = kind.startswith(_DETECTOR_LIKE)
    divisor = int(settings.get("size_divisor") or 32) if detector_like else 1
    if crops:
        return ImageSpec(size=_square(settings.get("crop_size"), name), fit="edge-crop", edge=edge, divisor=divisor, **common)
    if detector_like:
        longest = int(LONGEST_OF_EDGE * edge)
        return ImageSpec(size=longest // divisor * divisor, fit="edge-corner", edge=edge, divisor=divisor, **common)
    raise ConvertError(f"{name} takes pictures of any shape", expected="squares: a size of height and width, or a centre crop")


def _check(settings: Mapping[str, Any], name: str) -> None:
    if not settings.get("do_resize", True) or not isinstance(settings.get("size"), Mapping):
        raise ConvertError(f"the processor of {name} does not resize", expected="pictures of one size")
    if settings.get("resample") not in _RESAMPLING:
        raise ConvertError(f"{name} resamples with Pillow's filter {settings.get('resample')}", expected="2 or 3")
    factor = float(settings.get("rescale_factor") or _RESCALE)
    if not settings.get("do_rescale", True) or abs(factor - _RESCALE) > 1e-9:
        raise ConvertError(f"{name} does not scale pixels to 0 to 1", expected="a rescale_factor of 1 / 255")


def _three(values: Any, name: str) -> tuple[float, float, float]:
    numbers = [float(value) for value in values or ()]
    if len(numbers) != 3:
        raise ConvertError(f"{name} normalises {len(numbers)} channels", expected="3: RGB")
    return numbers[0], numbers[1], numbers[2]


def _square(size: Any, name: str) -> int:
    edges = {int(value) for value in size.values() if value} if isinstance(size, Mapping) else set()
    if len(edges) != 1:
        raise ConvertError(f"{name} takes pictures of {size}", expected="squares of one size")
    return edges.pop()
