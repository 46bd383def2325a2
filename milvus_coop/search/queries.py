"""Checks and encodes queries: texts or images, with their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from PIL import Image

from milvus_coop.bundle.spec import Score
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.encoder import Encoder
from milvus_coop.types import Array, Kind

Picture = str | Path | bytes | Image.Image
"""An image: a path, the bytes of an image file, or a Pillow image."""

MAX_K = 16_384
"""Milvus' limit for the number of results of one query."""

DEFAULT_K = 50
"""Default number of candidates. In the paper, a larger k gains nothing more (Table 8: k = 10, 20 and 50 are equal)."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a query: the checked keyword arguments of `CoopSearch.query`."""

    limit: int
    k: int
    filter: str
    output_fields: tuple[str, ...]
    rerank: bool
    deadline_ms: float | None
    score: Score = "ce"

    @property
    def retrieve(self) -> int:
        """Number of candidates to retrieve. If k < limit, candidates beyond k follow in BE order."""
        return max(self.k, self.limit)


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """n encoded queries, all texts or all images."""

    kind: Kind
    embeddings: Array
    """float32 of shape (n, dim), unit rows."""
    side: Mapping[str, Array]
    """The cross-encoder's inputs for the queries, by name: its text inputs or its image inputs; each array has shape (n, ...)."""


def check_options(
    *,
    limit: int,
    k: int | None,
    filter: str,
    output_fields: Sequence[str],
    rerank: bool,
    deadline_ms: float | None,
    score: Score,
) -> Options:
    """Check the options of a query.

    Raises:
        InvalidArgumentError: an option is out of range; the message names the first one.
    """
    _check_count("limit", limit)
    depth = max(DEFAULT_K, limit) if k is None else k
    _check_count("k", depth)
    if isinstance(output_fields, str):
        raise InvalidArgumentError(f"output_fields is the string '{output_fields}'", expected="a list of field names")
    if deadline_ms is not None and not deadline_ms > 0:
        raise InvalidArgumentError(f"deadline_ms is {deadline_ms}", expected="more than 0")
    if score not in get_args(Score):
        raise InvalidArgumentError(f"score is {score!r}", expected=" or ".join(get_args(Score)))
    return Options(limit, depth, filter, tuple(output_fields), rerank, deadline_ms, score)


def check_ids(ids: Sequence[str]) -> list[str]:
    """The ids without repetition, in their order.

    Raises:
        InvalidArgumentError: `ids` is a single string, holds something that is not a string, or has too many ids.
    """
    if isinstance(ids, str) or not all(isinstance(id, str) for id in ids):
        raise InvalidArgumentError("ids is one string, or not all of them are strings", expected="a list of strings")
    distinct = list(dict.fromkeys(ids))
    if len(distinct) > MAX_K:
        raise InvalidArgumentError(f"there are {len(distinct):,} ids", expected=f"at most {MAX_K:,}")
    return distinct


def encode_queries(
    encoder: Encoder, texts: Sequence[str] | None, images: Sequence[Picture] | None, timeout_s: float
) -> EncodedQueries:
    """Encode texts or images.

    Raises:
        InvalidArgumentError: neither or both are given, or a text is blank or too long.
        ImageError: an image cannot be read.
        BackendError: the backend failed. A search is not possible without an embedding.
    """
    if texts is None and images is None:
        raise InvalidArgumentError("the query has neither a text nor an image", expected="one of them")
    if texts is not None and images is not None:
        raise InvalidArgumentError("the query has a text and an image", expected="one of them")
    if isinstance(texts, str):
        raise InvalidArgumentError("query_many got one string", expected="a list of strings, or query(text)")
    if texts is not None:
        encoded = encoder.encode_texts(texts, timeout_s=timeout_s)
        return EncodedQueries("text", encoded.embeddings, encoded.text_side)
    pictures = encoder.encode_images([encoder.decode(p) for p in images or ()], timeout_s=timeout_s)
    return EncodedQueries("image", pictures.embeddings, pictures.image_side)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_K:
        raise InvalidArgumentError(f"{name} is {value!r}", expected=f"a whole number from 1 to {MAX_K:,}")
