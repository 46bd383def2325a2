"""Qwen3-VL-Embedding and Qwen3-VL-Reranker as their authors run them: prompts, processor, padding, pooling, scoring.

The prompts are written out here, apart from the package's own: that of the reranker is examples/reranker_template.jinja of
QwenLM/Qwen3-VL-Embedding, and those of the embedding are what the chat template makes of `format_model_input` there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from milvus_coop.types import Array

TEXT = "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PAIR = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that "
    'the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}<Query>:{text}\n'
    "<Document>:<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
)
REPRESENT = "Represent the user's input."
RETRIEVE = "Given a search query, retrieve relevant candidates that answer the query."


def inputs_of(path: Path, prompts: list[str], images: list[Image.Image], size: int, side: str) -> dict[str, Any]:
    """What the checkpoint's own processors make of prompts, padded on the given side."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, padding_side=side)
    kind: Any = transformers.AutoImageProcessor
    processor = kind.from_pretrained(path, backend="pil")
    found: dict[str, Any] = {}
    if images:
        squares = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
        found = dict(processor(squares, return_tensors="pt"))
        counts = found["image_grid_thw"].prod(1) // processor.merge_size**2
        prompts = [text.replace("<|image_pad|>", "<|image_pad|>" * int(n)) for text, n in zip(prompts, counts, strict=True)]
    found |= dict(tokenizer(prompts, return_tensors="pt", padding=True))
    if images:
        found["mm_token_type_ids"] = (found["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    return found


@torch.no_grad()
def own_embeddings(
    path: Path, images: list[Image.Image], texts: list[str], size: int, instruction: str = REPRESENT, dim: int | None = None
) -> tuple[Array, Array]:
    """Unit embeddings of images and texts: the state of the last token that is no padding."""
    kind: Any = transformers.Qwen3VLModel
    model = kind.from_pretrained(path).eval()
    found = []
    for prompts, seen in (([IMAGE] * len(images), images), (texts, [])):
        filled = [TEXT.format(instruction=instruction, text=text) for text in prompts]
        inputs = inputs_of(path, filled, seen, size, "right")
        states = model(**inputs).last_hidden_state
        last = inputs["attention_mask"].sum(1) - 1
        found.append(torch.nn.functional.normalize(states[torch.arange(len(last)), last][:, :dim], dim=-1).numpy())
    return found[0], found[1]


@torch.no_grad()
def own_scores(path: Path, images: list[Image.Image], texts: list[str], size: int, instruction: str = RETRIEVE) -> Array:
    """Match probabilities of pairs: the sigmoid of the last state times the difference of the head's rows for "yes" and "no"."""
    kind: Any = transformers.Qwen3VLForConditionalGeneration
    model = kind.from_pretrained(path).eval()
    words = transformers.AutoTokenizer.from_pretrained(path).get_vocab()
    prompts = [PAIR.format(instruction=instruction, text=text) for text in texts]
    states = model.model(**inputs_of(path, prompts, images, size, "left")).last_hidden_state[:, -1]
    found: Array = torch.sigmoid(states @ (model.lm_head.weight[words["yes"]] - model.lm_head.weight[words["no"]])).numpy()
    return found
