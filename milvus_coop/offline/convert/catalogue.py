"""The families of checkpoints that can be converted. `bundle models` lists them, even if PyTorch is not installed yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["joint", "be", "ce"]


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint that can be converted. `families/` has a module for each kind."""

    name: str
    model_types: tuple[str, ...]
    """The values of `model_type` in config.json."""
    role: Role
    """The roles: `joint` for both, `be` for a model that embeds, `ce` for one that matches."""
    example: str
    """An example: the id of a checkpoint on the hub."""
    licence: str
    """The licence of the example, as far as we know. Its model card decides, and a conversion records the card's licence."""
    size: str
    """The size of the example: parameters, pixels, image tokens."""
    verified: str
    """The checks that were made, and those that were not."""
    wishes: tuple[str, ...] = ()
    """The fields of `family.Wishes` that the family can meet."""


BLIP = Family(
    name="BLIP",
    model_types=("blip",),
    role="joint",
    example="Salesforce/blip-itm-base-coco",
    licence="bsd-3-clause",
    size="224 M parameters, 384 px, 577 image tokens of 768",
    verified="ONNX = transformers at base size, random weights; not with the published weights",
)

CLIP = Family(
    name="CLIP",
    model_types=("clip",),
    role="be",
    example="openai/clip-vit-base-patch32",
    licence="mit (of its code)",
    size="151 M parameters, 224 px",
    verified="ONNX = transformers at base size, random weights; not with the published weights",
)

METACLIP2 = Family(
    name="MetaCLIP 2",
    model_types=("metaclip_2",),
    role="be",
    example="facebook/metaclip-2-worldwide-huge-quickgelu",
    licence="cc-by-nc-4.0",
    size="1.9 G parameters, 224 px; texts in many languages",
    verified="ONNX = transformers at a small size, random weights; not with the published weights",
)

ALTCLIP = Family(
    name="AltCLIP",
    model_types=("altclip",),
    role="be",
    example="BAAI/AltCLIP",
    licence="creativeml-openrail-m",
    size="224 px; texts in English and Chinese",
    verified="ONNX = transformers at a small size, random weights; not with the published weights",
)

CHINESE_CLIP = Family(
    name="Chinese-CLIP",
    model_types=("chinese_clip",),
    role="be",
    example="OFA-Sys/chinese-clip-vit-base-patch16",
    licence="unknown",
    size="224 px; texts in Chinese",
    verified="ONNX = transformers at a small size, random weights; not with the published weights",
)

SIGLIP = Family(
    name="SigLIP, SigLIP 2",
    model_types=("siglip",),
    role="be",
    example="google/siglip2-base-patch16-224",
    licence="apache-2.0",
    size="203 M parameters as SigLIP base, 224 px; SigLIP 2 has a larger vocabulary",
    verified="ONNX = transformers at base size, random weights; not with the published weights",
)

NAFLEX = Family(
    name="SigLIP 2 NaFlex",
    model_types=("siglip2",),
    role="be",
    example="google/siglip2-base-patch16-naflex",
    licence="apache-2.0",
    size="256 patches of 16 px in the aspect ratio of the image",
    verified="ONNX = transformers at a small size, random weights; not with the published weights",
)

BLIP2 = Family(
    name="BLIP-2",
    model_types=("blip-2",),
    role="ce",
    example="Salesforce/blip2-itm-vit-g",
    licence="mit",
    size="1.2 G parameters, 224 px, 257 image tokens of 1408",
    verified="ONNX = transformers at a small size, random weights; not at full size, nor with the published weights",
)

VILT = Family(
    name="ViLT",
    model_types=("vilt",),
    role="ce",
    example="dandelin/vilt-b32-finetuned-coco",
    licence="apache-2.0",
    size="112 M parameters, 384 px on the shorter edge, 362 image tokens of 768",
    verified="ONNX = transformers at base size, random weights; not with the published weights",
)

BRIDGETOWER = Family(
    name="BridgeTower",
    model_types=("bridgetower",),
    role="ce",
    example="BridgeTower/bridgetower-base-itm-mlm",
    licence="mit",
    size="326 M parameters, 288 px, 6 x 325 image tokens of 768",
    verified="ONNX = transformers at base size, random weights; not with the published weights, which are pickles: see --revision",
)

QWEN3_VL_EMBEDDING = Family(
    name="Qwen3-VL-Embedding",
    model_types=("qwen3_vl",),
    role="be",
    example="Qwen/Qwen3-VL-Embedding-2B",
    licence="apache-2.0",
    size="2.1 G parameters, 256 px unless asked otherwise, embeddings of 2048 or fewer numbers",
    verified="ONNX = transformers at a small size, random weights; not at full size, nor with the published weights",
    wishes=("dim", "image_size", "be_instruction"),
)

QWEN3_VL_RERANKER = Family(
    name="Qwen3-VL-Reranker",
    model_types=("qwen3_vl",),
    role="ce",
    example="Qwen/Qwen3-VL-Reranker-2B",
    licence="apache-2.0",
    size="2.1 G parameters, 256 px unless asked otherwise, 4 x 64 image tokens of 2048",
    verified="ONNX = transformers at a small size, random weights; not at full size, nor with the published weights",
    wishes=("image_size", "instruction"),
)

FAMILIES = (
    BLIP,
    CLIP,
    METACLIP2,
    ALTCLIP,
    CHINESE_CLIP,
    SIGLIP,
    NAFLEX,
    BLIP2,
    VILT,
    BRIDGETOWER,
    QWEN3_VL_EMBEDDING,
    QWEN3_VL_RERANKER,
)
