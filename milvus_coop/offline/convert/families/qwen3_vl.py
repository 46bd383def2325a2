"""Qwen3-VL-Embedding and Qwen3-VL-Reranker (Li et al. 2026, arXiv 2601.04720): one vision-language model in each role.

Prompts, pooling, scoring and pixel limits are those of the authors' repository QwenLM/Qwen3-VL-Embedding: `format_model_input` and
`_pooling_last` of src/models/qwen3_vl_embedding.py; `format_mm_instruction`, `get_binary_linear` and `compute_scores` of
src/models/qwen3_vl_reranker.py; and examples/reranker_template.jinja, in which no line break stands between instruction and query.

The authors' code keeps the aspect ratio of an image, and rounds both edges to multiples of 32 pixels between 4 and 1800 image
tokens. A bundle has one size for all images, so they are stretched to a square.

A text is always the query and an image the document, in both directions of a search.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLModel

from milvus_coop.errors import ConvertError
from milvus_coop.offline.convert.catalogue import QWEN3_VL_EMBEDDING, QWEN3_VL_RERANKER
from milvus_coop.offline.convert.checkpoint import Checkpoint
from milvus_coop.offline.convert.families.qwen3_reader import Decoder, ImageReader, Reader
from milvus_coop.offline.convert.families.qwen3_vision import Qwen3Vision
from milvus_coop.offline.convert.family import CheckpointSource, Grid, Matcher, Retriever, Wishes
from milvus_coop.offline.convert.preprocessing import patch_spec_of
from milvus_coop.offline.convert.prompting import Prompt, PromptTokenizer
from milvus_coop.offline.convert.streaming import rows_of

EMBEDDING_INSTRUCTION = "Represent the user's input."
"""The default of the authors' code. They recommend another instruction for queries. Here, queries and items share a graph and one
instruction."""
RERANKER_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
IMAGE_SIZE = 256
"""Pixels per side. 64 image tokens take 525 kB per image, about as much as those of BLIP."""

_IMAGE = "<|image_pad|>"
_SEEN, _UNSEEN = "<|vision_start|>", "<|vision_end|>"
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


class EmbedTexts(nn.Module):
    """Token ids to the text embedding: the last state, cut to the first `dim` numbers."""

    def __init__(self, reader: Reader, dim: int) -> None:
        super().__init__()
        self.reader, self.dim = reader, dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, T) twice -> unit (B, dim)."""
        return functional.normalize(self.reader(input_ids, attention_mask)[:, : self.dim], dim=-1)


class EmbedImages(nn.Module):
    """Image tokens to the image embedding, in the same way."""

    def __init__(self, reader: ImageReader, dim: int) -> None:
        super().__init__()
        self.reader, self.dim = reader, dim

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, sets * N, W) -> unit (B, dim)."""
        return functional.normalize(self.reader(tokens)[:, : self.dim], dim=-1)


class Judge(nn.Module):
    """Query and image tokens to match logits: 0 for "no", and logit("yes") - logit("no") for "yes"."""

    def __init__(self, reader: Reader, direction: Tensor) -> None:
        super().__init__()
        self.reader = reader
        self.direction = nn.Buffer(direction, persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        """int64 (B, T) twice, (B, sets * N, W) -> (B, 2)."""
        logit = self.reader(input_ids, attention_mask, tokens) @ self.direction
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def open_qwen3_embedding(checkpoint: Checkpoint, wishes: Wishes) -> CheckpointSource:
    """Open a `Qwen3VLModel` as a bi-encoder."""
    model = opened(checkpoint, Qwen3VLModel)
    language: Any = model.language_model
    width = language.config.hidden_size
    dim = wishes.dim or width
    if dim > width:
        raise ConvertError(f"an embedding of {dim} numbers is wanted of {checkpoint.name}", expected=f"at most {width}")
    before = f"<|im_start|>system\n{_punctuated(wishes.be_instruction) or EMBEDDING_INSTRUCTION}<|im_end|>\n<|im_start|>user"
    tokenizer = PromptTokenizer(checkpoint.tokenizer(), Prompt(before, "\n", "", _ANSWER))
    beginning, middle = tokenizer.fixed(before), tokenizer.fixed(f"\n{_SEEN}")
    close = tokenizer.fixed(_UNSEEN)
    vision = Qwen3Vision(model.visual, size := _image_size(checkpoint, wishes))
    decoder = Decoder(language, beginning)
    texts = Reader(decoder, (), tokenizer.end, vision.sets)
    images = ImageReader(decoder, middle, close + tokenizer.end, vision.sets, vision.side)
    sight = middle + tokenizer.fixed(_IMAGE) * vision.side**2 + close

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        ids = [beginning + words + tokenizer.end for words in _words(inputs)]
        seen = [_own(model, beginning + sight + tokenizer.end, image) for image in inputs["pixel_values"]]
        read = [_own(model, row, None) for row in ids]
        found = {"image_embedding": seen, "text_embedding": read}
        states = {name: torch.stack([out.last_hidden_state[0, -1, :dim] for out in outputs]) for name, outputs in found.items()}
        return {name: functional.normalize(rows, dim=-1) for name, rows in states.items()}

    return CheckpointSource(
        family=QWEN3_VL_EMBEDDING,
        checkpoint=checkpoint,
        vision=vision,
        image=patch_spec_of(checkpoint.processor(), checkpoint.name, size),
        tokenizer=tokenizer,
        positions=language.config.max_position_embeddings,
        reference=reference,
        retriever=Retriever(dim, EmbedImages(images, dim), EmbedTexts(texts, dim)),
    )


def open_qwen3_reranker(checkpoint: Checkpoint, wishes: Wishes) -> CheckpointSource:
    """Open a `Qwen3VLForConditionalGeneration` as a cross-encoder."""
    model = opened(checkpoint, Qwen3VLForConditionalGeneration)
    language: Any = model.model.language_model
    # The authors' code adds a full stop to the instruction of an embedding, but not to that of a reranking.
    before = (
        f"<|im_start|>system\n{JUDGE}<|im_end|>\n<|im_start|>user\n<Instruct>: {wishes.instruction or RERANKER_INSTRUCTION}<Query"
    )
    document = f"<Document>:{_SEEN}"
    tokenizer = PromptTokenizer(checkpoint.tokenizer(), Prompt(before, ">:", "\n", f"{document}{_IMAGE}{_UNSEEN}{_ANSWER}"))
    beginning, middle = tokenizer.fixed(before), tokenizer.fixed(document)
    end = tokenizer.end[len(middle) + 1 :]
    yes, no = (_word(checkpoint, tokenizer, answer) for answer in ("yes", "no"))
    head = rows_of(model.lm_head.weight, [yes, no])
    vision = Qwen3Vision(model.model.visual, size := _image_size(checkpoint, wishes))
    reader = Reader(Decoder(language, beginning), middle, end, vision.sets)
    sight = middle + tokenizer.fixed(_IMAGE) * vision.side**2

    def reference(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        rows = [beginning + words + sight + end for words in _words(inputs)]
        logits = [_own(model, row, image).logits[0, -1] for row, image in zip(rows, inputs["pixel_values"], strict=True)]
        return {"match_probability": torch.stack([torch.sigmoid(row[yes] - row[no]) for row in logits])}

    return CheckpointSource(
        family=QWEN3_VL_RERANKER,
        checkpoint=checkpoint,
        vision=vision,
        image=patch_spec_of(checkpoint.processor(), checkpoint.name, size),
        tokenizer=tokenizer,
        positions=language.config.max_position_embeddings,
        reference=reference,
        matcher=Matcher(
            count=vision.sets * vision.side**2,
            dim=language.config.hidden_size,
            tokens=nn.Identity(),
            match=Judge(reader, head[0] - head[1]),
            grid=Grid(vision.side, leading=0, sets=vision.sets),
        ),
    )


def opened(checkpoint: Checkpoint, kind: Any) -> Any:
    """The model, whose weights are read layer by layer."""

    def slim(config: Any) -> None:
        config.text_config.num_hidden_layers, config.text_config.vocab_size, config.text_config.pad_token_id = 1, 8, None
        config.vision_config.depth, config.vision_config.deepstack_visual_indexes = 1, []

    return checkpoint.streamed_model(kind, slim)


def _punctuated(instruction: str | None) -> str:
    """An instruction that ends with a punctuation mark, as `format_model_input` makes it."""
    plain = (instruction or "").strip()
    return plain if not plain or unicodedata.category(plain[-1]).startswith("P") else f"{plain}."


def _image_size(checkpoint: Checkpoint, wishes: Wishes) -> int:
    vision = checkpoint.config.get("vision_config", {})
    step = int(vision.get("patch_size", 16)) * int(vision.get("spatial_merge_size", 2))
    size = wishes.image_size or IMAGE_SIZE
    if size % step:
        raise ConvertError(f"images of {size} px cannot be cut into patches", expected=f"--image-size with a multiple of {step}")
    return size


def _word(checkpoint: Checkpoint, tokenizer: PromptTokenizer, answer: str) -> int:
    """The token of an answer."""
    ids = tokenizer.fixed(answer)
    if len(ids) != 1:
        raise ConvertError(f"the tokenizer of {checkpoint.name} has no token “{answer}”", expected="the tokenizer of Qwen")
    return ids[0]


def _words(inputs: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """The token ids of each text without padding."""
    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [tuple(ids[mask.bool()].tolist()) for ids, mask in rows]


def _own(model: Any, ids: tuple[int, ...], image: Tensor | None) -> Any:
    """The model's own forward pass on one prompt, with one image or none."""
    inputs: dict[str, Tensor] = {"input_ids": torch.tensor([ids])}
    if image is not None:
        vision = model.config.vision_config
        patches, grid = _patches(image, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        kinds = (inputs["input_ids"] == model.config.image_token_id).int()
        inputs |= {"pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": kinds}
    return model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), use_cache=False)


def _patches(image: Tensor, patch: int, merge: int, frames: int) -> tuple[Tensor, Tensor]:
    """The model's inputs for normalised pixels (3, S, S): rows of patches, and the grid (1, 3)."""
    side = image.shape[-1] // (patch * merge)
    parts = image.view(3, side, merge, patch, side, merge, patch).permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    rows = parts.expand(-1, -1, -1, -1, -1, frames, -1, -1).flatten(4).flatten(0, 3)
    return rows, torch.tensor([[1, side * merge, side * merge]])
