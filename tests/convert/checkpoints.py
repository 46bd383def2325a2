"""Checkpoints of the true classes with random weights, tiny or at base size: configuration, tokenizer, processor, safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BridgeTowerConfig,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerImageProcessor,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltImageProcessor,
)

from tests.convert.kit import bert_tokenizer, clip_tokenizer, qwen_tokenizer, roberta_tokenizer, siglip2_tokenizer, xlmr_tokenizer

STD = 0.08
"""Of random weights: large enough that outputs differ from image to image, which a parity test needs."""
QWEN_TOKENS = {
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}
TINY: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def randomise(model: PreTrainedModel) -> None:
    """Fill a model with random weights, the same each time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:  # BLIP's own initialisation is so small that all tokens are nearly zero
                value.normal_(0.0, STD if value.shape[-1] < 512 else 0.03, generator=generator)
            elif "bias" in name:
                value.normal_(0.0, 0.02, generator=generator)


def _save(folder: Path, model: PreTrainedModel, processor: Any) -> Path:
    randomise(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def blip(folder: Path, *, base: bool = False) -> Path:
    """BLIP: 48 px and 37 tokens of 32, or 384 px and 577 of 768."""
    size = 384 if base else 48
    tokenizer = bert_tokenizer(folder)
    text = {"vocab_size": 30524 if base else len(tokenizer), "encoder_hidden_size": 768 if base else 32}
    vision = {"image_size": size, "patch_size": 16 if base else 8}
    config = BlipConfig(
        text_config=text if base else {**TINY, **text, "bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0},
        vision_config=vision if base else {**TINY, **vision},
        image_text_hidden_size=256 if base else 24,
    )
    return _save(folder, BlipForImageTextRetrieval(config), BlipImageProcessor(size={"height": size, "width": size}))


def blip2(folder: Path, *, base: bool = False) -> Path:
    """BLIP-2 with its matching head, always small: its true size takes 5 GB."""
    tokenizer = bert_tokenizer(folder)
    config = Blip2Config(
        vision_config={**TINY, "image_size": 48, "patch_size": 8},
        qformer_config={**TINY, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "use_qformer_text_input": True},
        num_query_tokens=4,
        image_text_hidden_size=24,
    )
    return _save(folder, Blip2ForImageTextRetrieval(config), BlipImageProcessor(size={"height": 48, "width": 48}))


def clip(folder: Path, *, base: bool = False) -> Path:
    """CLIP ViT-B/32, or 48 px."""
    tokenizer = clip_tokenizer(folder)
    size = 224 if base else 48
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {"vocab_size": 49408} if base else {**TINY, "vocab_size": len(tokenizer), "projection_dim": 24}
    vision = {"image_size": size, "patch_size": 32} if base else {**TINY, "image_size": size, "patch_size": 8, "projection_dim": 24}
    config = CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=512 if base else 24)
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return _save(folder, CLIPModel(config), processor)


SMALL_CLIP: dict[str, Any] = {**TINY, "image_size": 48, "patch_size": 8, "projection_dim": 24}
SMALL_CLIP_PROCESSOR: dict[str, Any] = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}


def metaclip2(folder: Path, *, base: bool = False) -> Path:
    """MetaCLIP 2, always small: 48 px."""
    tokenizer = xlmr_tokenizer(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as published
    config = MetaClip2Config(
        text_config={**TINY, "vocab_size": len(tokenizer), "projection_dim": 24, **ends},
        vision_config=SMALL_CLIP,
        projection_dim=24,
    )
    return _save(folder, MetaClip2Model(config), CLIPImageProcessor(**SMALL_CLIP_PROCESSOR))


def altclip(folder: Path, *, base: bool = False) -> Path:
    """AltCLIP, always small: 48 px, and an XLM-RoBERTa with its own width for the projection."""
    tokenizer = xlmr_tokenizer(folder)
    text = {**TINY, "vocab_size": len(tokenizer), "project_dim": 40, "max_position_embeddings": 66}
    config = AltCLIPConfig(text_config=text, vision_config=SMALL_CLIP, projection_dim=24)
    return _save(folder, AltCLIPModel(config), CLIPImageProcessor(**SMALL_CLIP_PROCESSOR))


def chinese_clip(folder: Path, *, base: bool = False) -> Path:
    """Chinese-CLIP, always small: images are stretched to 48 px."""
    tokenizer = bert_tokenizer(folder)
    config = ChineseCLIPConfig(text_config={**TINY, "vocab_size": len(tokenizer)}, vision_config=SMALL_CLIP, projection_dim=24)
    processor = ChineseCLIPImageProcessor(size={"height": 48, "width": 48}, do_center_crop=False)
    return _save(folder, ChineseCLIPModel(config), processor)


def siglip(folder: Path, *, base: bool = False) -> Path:
    """SigLIP at 224 px, or 48; with a BERT tokenizer, since the true one is tested in test_tokenizing."""
    tokenizer = bert_tokenizer(folder)
    size = 224 if base else 48
    text = {"vocab_size": 32000} if base else {**TINY, "vocab_size": len(tokenizer), "projection_size": 32}
    config = SiglipConfig(
        text_config={**text, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},
        vision_config={"image_size": size, "patch_size": 16} if base else {**TINY, "image_size": size, "patch_size": 8},
    )
    return _save(folder, SiglipModel(config), SiglipImageProcessor(size={"height": size, "width": size}))


def naflex(folder: Path, *, base: bool = False) -> Path:
    """SigLIP 2 NaFlex, always small: up to 36 patches of 8 px, and learnt positions for 4 x 4."""
    tokenizer = siglip2_tokenizer(folder)
    text = {**TINY, "vocab_size": len(tokenizer), "projection_size": 32, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = Siglip2Config(text_config=text, vision_config={**TINY, "patch_size": 8, "num_patches": 16})
    return _save(folder, Siglip2Model(config), Siglip2ImageProcessor(patch_size=8, max_num_patches=36))


def vilt(folder: Path, *, base: bool = False) -> Path:
    """ViLT-B/32 with 384 px on the shorter edge, or 64."""
    tokenizer = bert_tokenizer(folder)
    small: dict[str, Any] = {**TINY, "vocab_size": len(tokenizer), "image_size": 64, "patch_size": 32}
    config = ViltConfig(**({} if base else small), max_image_length=-1)
    return _save(folder, ViltForImageAndTextRetrieval(config), ViltImageProcessor(size={"shortest_edge": 384 if base else 64}))


def bridgetower(folder: Path, *, base: bool = False) -> Path:
    """BridgeTower base at 288 px, or 64."""
    tokenizer = roberta_tokenizer(folder)
    size = 288 if base else 64
    layers = {"num_hidden_layers": 12 if base else 4}
    width: dict[str, Any] = {"hidden_size": 768 if base else 64}
    text = (
        {**layers, **width}
        if base
        else {**layers, **width, "vocab_size": len(tokenizer), "num_attention_heads": 2, "intermediate_size": 64}
    )
    kind: Any = BridgeTowerConfig
    config = kind(
        text_config=text,
        vision_config={**layers, **width, "image_size": size, "patch_size": 16},
        num_hidden_layers=6 if base else 2,
        num_attention_heads=12 if base else 2,
        **width,
        intermediate_size=3072 if base else 64,
        share_link_tower_layers=False,
    )
    processor = BridgeTowerImageProcessor(size={"shortest_edge": size}, crop_size={"shortest_edge": size})
    return _save(folder, BridgeTowerForImageAndTextRetrieval(config), processor)


def _qwen_shape(*, text: tuple[int, ...], vision: tuple[int, ...], vocabulary: int, sections: list[int]) -> dict[str, Any]:
    """Configurations of both halves. `text` is width, layers, heads, groups, width of a head; `vision` width, layers, heads."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    rope = {"rope_type": "default", "rope_theta": 5000000, "mrope_section": sections, "mrope_interleaved": True}
    width, layers, heads = vision
    return {
        "text_config": {
            **dict(zip(names, text, strict=True)),
            "intermediate_size": 3 * text[0],
            "vocab_size": vocabulary,
            "max_position_embeddings": 262144,
            "rope_parameters": rope,
        },
        "vision_config": {
            **{"hidden_size": width, "depth": layers, "num_heads": heads, "intermediate_size": 4 * width},
            "out_hidden_size": text[0],
            "deepstack_visual_indexes": [5, 11, 17] if layers == 24 else [0, 1, 2],
            "num_position_embeddings": 2304 if layers == 24 else 36,
        },
    }


QWEN_SHAPES = {
    "tiny": _qwen_shape(text=(32, 4, 4, 2, 16), vision=(32, 4, 2), vocabulary=0, sections=[3, 3, 2]),
    "sixth": _qwen_shape(text=(1024, 8, 16, 8, 128), vision=(1024, 4, 16), vocabulary=65536, sections=[24, 20, 20]),
    "2b": _qwen_shape(text=(2048, 28, 16, 8, 128), vision=(1024, 24, 16), vocabulary=151936, sections=[24, 20, 20]),
}
"""The shape of the tests, one of a sixth of the size, and that of Qwen3-VL-Embedding-2B and Qwen3-VL-Reranker-2B. The last is put
together from the models' README, from the metadata of a GGUF of the reranker, and from the class's published configurations."""


def qwen3_vl(folder: Path, *, shape: str = "tiny", tied: bool = True, dtype: torch.dtype = torch.float32) -> Path:
    """Qwen3-VL with the rules of its tokenizer, in one of `QWEN_SHAPES`."""
    tokenizer = qwen_tokenizer(folder)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()}
    facts = QWEN_SHAPES[shape]
    text = {**facts["text_config"], "vocab_size": facts["text_config"]["vocab_size"] or len(tokenizer)}
    text["tie_word_embeddings"] = tied
    config = Qwen3VLConfig(vision_config=facts["vision_config"], text_config=text, tie_word_embeddings=tied, **ids)
    half = [0.5, 0.5, 0.5]
    processor = Qwen2VLImageProcessor(patch_size=16, min_pixels=4096, max_pixels=1310720, image_mean=half, image_std=half)
    model: Any = Qwen3VLForConditionalGeneration(config)
    return _save(folder, model.to(dtype), processor)


def qwen_embedding(folder: Path, *, base: bool = False) -> Path:
    """Qwen3-VL-Embedding."""
    return qwen3_vl(folder, shape="2b" if base else "tiny")


def qwen_reranker(folder: Path, *, base: bool = False) -> Path:
    """Qwen3-VL-Reranker, with a head of its own as the 8B model has."""
    return qwen3_vl(folder, shape="2b" if base else "tiny", tied=base)


MAKERS: dict[str, Callable[..., Path]] = {
    "blip": blip,
    "blip2": blip2,
    "clip": clip,
    "metaclip2": metaclip2,
    "altclip": altclip,
    "chinese_clip": chinese_clip,
    "siglip": siglip,
    "naflex": naflex,
    "vilt": vilt,
    "bridgetower": bridgetower,
    "qwen-embedding": qwen_embedding,
    "qwen-reranker": qwen_reranker,
}
