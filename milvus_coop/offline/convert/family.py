"""The form in which each family of checkpoints is described: modules that read images and texts, embed them, and match them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from milvus_coop.bundle.spec import ImageSpec, Score
from milvus_coop.offline.convert.catalogue import Family
from milvus_coop.offline.convert.checkpoint import Checkpoint


@dataclass(frozen=True)
class Retriever:
    """The bi-encoder's half of a model."""

    dim: int
    embed_images: nn.Module
    """Features of the vision tower -> unit (B, dim)."""
    embed_texts: nn.Module
    """`input_ids` (and `attention_mask`, if `masked`), int64 (B, T) -> unit (B, dim)."""
    masked: bool = True


@dataclass(frozen=True)
class Grid:
    """Image tokens that are patches of a square: `side` x `side` of them, row by row, after `leading` others ([CLS])."""

    side: int
    leading: int = 1
    sets: int = 1
    """Number of such squares, one after the other."""


@dataclass(frozen=True)
class Matcher:
    """The cross-encoder's half of a model."""

    count: int
    """Number of image tokens per image."""
    dim: int
    """Numbers per image token."""
    tokens: nn.Module
    """Features of the vision tower -> image tokens (B, count, dim)."""
    match: nn.Module
    """`input_ids`, `attention_mask` int64 (B, T), image tokens (B, count, dim) -> the logits of "no match" and "match", (B, 2)."""
    score: Score = "ce"
    """The score by which the model's authors rank."""
    grid: Grid | None = None
    """The grid of the tokens. None if the tokens cannot be pooled."""


@dataclass(frozen=True)
class Wishes:
    """The choices that a family leaves to a user. None stands for the family's own choice.

    `Family.wishes` names those that a family can meet.
    """

    dim: int | None = None
    """Length of the embedding: its first numbers (Matryoshka)."""
    image_size: int | None = None
    """Pixels per side."""
    instruction: str | None = None
    """The cross-encoder's instruction."""
    be_instruction: str | None = None
    """The bi-encoder's instruction."""


@dataclass(frozen=True)
class CheckpointSource:
    """An opened checkpoint."""

    family: Family
    checkpoint: Checkpoint
    vision: nn.Module
    """Normalised float pixels (B, 3, S, S) -> features. If the fit has a patch mask, it also takes that, as floats."""
    image: ImageSpec
    tokenizer: Any
    positions: int
    """Maximum text length in tokens for which the model has positions."""
    reference: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    """The model's own forward pass on `pixel_values`, `patch_mask`, `input_ids`, `attention_mask`. It returns
    `image_embedding` and `text_embedding` (B, dim) and `match_probability` (B,), if the model has them. An export is compared
    with it."""
    retriever: Retriever | None = None
    matcher: Matcher | None = None
    pad_to_max: bool = False
    """True if texts are padded to the full length, because the model was trained so."""
