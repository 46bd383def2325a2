"""Conversion of a transformers image processor to an `ImageSpec`. With it, `milvus_coop.models.preprocess` makes the same pixels.

The reference is transformers' Pillow backend. If torchvision is installed, transformers resizes with torchvision instead, which
rounds a few pixel values (0 to 255) to a neighbour. CLIP, BLIP, ViLT and BridgeTower were trained on Pillow's pixels.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from PIL import Image

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import ConvertError
from milvus_coop.models.preprocess.images import LONGEST_OF_EDGE, normalise, patch_grid, to_pixels
from milvus_coop.types import Array

_RESAMPLING: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_PROBES = ((500, 333), (211, 317), (64, 64))
_LARGEST_DIFFERENCE = 1.0
"""Maximum mean difference of pixels, of 255. The rounding of torchvision makes a tenth of it, another filter or crop several times
as much."""


def image_spec_of(processor: Any, name: str, model_size: int | None = None) -> ImageSpec:
    """The `ImageSpec` of a checkpoint's own image processor.

    A few images go through both. A processor that does more than its settings say is refused, not approximated.

    Args:
        processor: an image processor of transformers, or a processor that has one (`BlipProcessor`).
        name: the name of the checkpoint, for messages.
        model_size: pixels per side for which the model has positions, if it cannot take other sizes. It is not compared for ViLT,
            which stretches its positions to every image.

    Raises:
        ConvertError: the processor does something that `ImageSpec` cannot express, or makes images that the model cannot take.
    """
    processor = getattr(processor, "image_processor", processor)
    settings: dict[str, Any] = processor.to_dict()
    mean, std = _normalisation(settings, name)
    spec = ImageSpec(mean=mean, std=std, resampling=_resampling(settings, name), full_decode=True, **_fit(settings, name))
    if model_size not in {None, spec.size} and spec.fit != "edge-corner":
        raise ConvertError(
            f"'{name}' makes images of {spec.size} x {spec.size} pixels, but its model takes {model_size} x {model_size}",
            expected="a preprocessor_config.json that fits the model",
        )
    _compare(processor, spec, name)
    return spec


def patch_spec_of(processor: Any, name: str, size: int) -> ImageSpec:
    """The `ImageSpec` of a checkpoint that takes images of any size, for squares of `size` pixels.

    A square image of that size goes through the checkpoint's own processor, which must leave its size as it is.

    Raises:
        ConvertError: the processor does something that `ImageSpec` cannot express, or resizes such squares.
    """
    settings: dict[str, Any] = processor.to_dict()
    mean, std = _normalisation(settings, name)
    spec = ImageSpec(size, mean, std, resampling=_resampling(settings, name), fit="stretch", full_decode=True)
    square = np.random.default_rng(0).integers(0, 256, (3, size, size), dtype=np.uint8)
    try:
        found = processor(Image.fromarray(square.transpose(1, 2, 0)), return_tensors="np")
    except Exception as exc:  # any error of the processor's own code
        raise ConvertError(f"the image processor of '{name}' fails: {exc!r}") from exc
    grid, patch = found["image_grid_thw"][0], settings["patch_size"]
    if (grid[1:] * patch).tolist() != [size, size]:
        raise ConvertError(
            f"'{name}' makes images of {grid[2] * patch} x {grid[1] * patch} pixels of those of {size} x {size}",
            expected="an --image-size within the limits of its preprocessor_config.json",
        )
    wanted = normalise(square[None], spec)[0]
    if not math.isclose(found["pixel_values"].sum() / settings["temporal_patch_size"], wanted.sum(), rel_tol=1e-3, abs_tol=1.0):
        raise ConvertError(f"'{name}' does more to images than resize and normalise them", expected="the processor of Qwen3-VL")
    return spec


def _fit(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields of `ImageSpec` for the size of the resized image and for the part of it that is kept."""
    if {"patch_size", "max_num_patches"} <= set(settings):
        return _naflex(settings, name)
    size = _edges(settings.get("size"))
    crop = _edges(settings.get("crop_size")) if settings.get("do_center_crop") else {}
    edges, cut = set(size.values()), set(crop.values())
    if settings.get("do_resize") and len(edges) == 1 and len(cut) <= 1:
        edge, side = edges.pop(), cut.pop() if cut else None
        if set(size) == {"height", "width"} and side in {None, edge}:
            return {"size": edge, "fit": "stretch"}
        divisor = settings.get("size_divisor") or 1
        if set(size) == {"shortest_edge"} and side is not None:
            return {"size": side, "fit": "edge-crop", "edge": edge, "divisor": divisor}
        if set(size) == {"shortest_edge"} and divisor > 1:
            longest = int(LONGEST_OF_EDGE * edge) // divisor * divisor
            return {"size": longest, "fit": "edge-corner", "edge": edge, "divisor": divisor}
    raise ConvertError(
        f"'{name}' resizes images to {size or 'no fixed size'}" + (f" and crops them to {crop}" if crop else ""),
        expected="a square, or a shorter edge that is then cropped to a square or padded as for ViLT",
    )


def _naflex(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields for SigLIP 2 NaFlex, whose patches fill a square one after the other."""
    edge, most = int(settings["patch_size"]), int(settings["max_num_patches"])
    side = math.isqrt(most)
    if side * side != most:
        raise ConvertError(f"'{name}' makes up to {most} patches of an image", expected="a square number, such as 256 or 1024")
    return {"size": side * edge, "fit": "patches", "divisor": edge}


def patches_of(pixels: Array, edge: int) -> Array:
    """The patches of a square of pixels (3, size, size), row by row, as SigLIP 2 NaFlex reads them: (n, edge * edge * 3)."""
    side = pixels.shape[-1] // edge
    patches: Array = pixels.reshape(3, side, edge, side, edge).transpose(1, 3, 2, 4, 0).reshape(side * side, -1)
    return patches


def _edges(value: Any) -> dict[str, int]:
    return {key: edge for key, edge in value.items() if edge is not None} if isinstance(value, dict) else {}


def _resampling(settings: dict[str, Any], name: str) -> Literal["bilinear", "bicubic"]:
    number = settings.get("resample")
    found = _RESAMPLING.get(2 if number is None else int(number))
    if found is None:
        raise ConvertError(f"'{name}' resamples images with Pillow's filter {number:d}", expected="2 (bilinear) or 3 (bicubic)")
    return found


def _normalisation(settings: dict[str, Any], name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    factor = settings.get("rescale_factor") if settings.get("do_rescale") else None
    if factor is None or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise ConvertError(f"'{name}' multiplies pixels by {factor or 1}", expected="rescale_factor 1 / 255 and do_rescale true")
    if not settings.get("do_normalize"):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _three(settings, "image_mean", name), _three(settings, "image_std", name)


def _three(settings: dict[str, Any], key: str, name: str) -> tuple[float, float, float]:
    value = settings.get(key)
    values: list[Any] = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or None in values:
        raise ConvertError(f"'{name}' has {key} {value}", expected="one number per colour")
    return float(values[0]), float(values[1]), float(values[2])


def _compare(processor: Any, spec: ImageSpec, name: str) -> None:
    noise = np.random.default_rng(0)
    for width, height in _PROBES:
        coarse = Image.fromarray(noise.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        try:
            theirs = np.asarray(processor(image)["pixel_values"][0])
        except Exception as exc:  # any error of the processor's own code
            raise ConvertError(f"the image processor of '{name}' fails: {exc!r}") from exc
        ours = normalise(to_pixels(image, spec)[None], spec)[0]
        spread = np.asarray(spec.std)[:, None, None]
        if spec.fit == "edge-corner":
            ours = ours[:, : theirs.shape[-2], : theirs.shape[-1]]
        elif spec.fit == "patches":
            rows, columns = patch_grid(image.size, spec)
            theirs = theirs[: rows * columns]
            ours, spread = patches_of(ours, spec.divisor)[: rows * columns], np.tile(spec.std, spec.divisor**2)
        if ours.shape != theirs.shape or np.abs((ours - theirs) * spread).mean() * 255 > _LARGEST_DIFFERENCE:
            raise ConvertError(
                f"'{name}' does more to images than resize, crop and normalise them ({type(processor).__name__})",
                expected="one of the processors of BLIP, CLIP, SigLIP, ViLT, BridgeTower or ViT",
            )
