"""Encodes queries: texts or images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from milvus_coop.arguments import many, strings
from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.store.schema import MAX_K
from milvus_coop.types import Array, Kind


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """n encoded queries, all texts or all images."""

    kind: Kind
    embeddings: Array
    """float32 of shape (n, dim), unit rows."""
    side: Mapping[str, Array]
    """The cross-encoder's inputs for the queries, by name: its text inputs or its image inputs; each array has shape (n, ...)."""
    sources: Sequence[ImageInput]
    """The texts; or the images, as paths, bytes or decoded images of Pillow."""


def check_ids(ids: Iterable[str]) -> list[str]:
    """The ids without repetition, in their order.

    Raises:
        InvalidArgumentError: `ids` is a single string, holds something that is not a string, or has too many ids.
    """
    distinct = list(dict.fromkeys(strings("ids", ids, "a list of ids")))
    if len(distinct) > MAX_K:
        raise InvalidArgumentError(f"there are {len(distinct):,} ids", expected=f"at most {MAX_K:,}")
    return distinct


def encode_queries(
    encoder: Encoder,
    texts: Iterable[str] | None,
    images: Iterable[ImageInput] | None,
    timeout_s: float,
    deadline: Deadline = NEVER,
) -> EncodedQueries:
    """Encode texts or images.

    Raises:
        InvalidArgumentError: neither or both are given, a text is blank, too long or not valid Unicode, or an image has a type that
            cannot be an image.
        ImageError: an image cannot be read.
        BackendError: the backend failed. A search is not possible without an embedding.
        DeadlineExceededError: the deadline came before the images were decoded.
    """
    if texts is None and images is None:
        raise InvalidArgumentError("the query has neither a text nor an image", expected="one of them")
    if texts is not None and images is not None:
        raise InvalidArgumentError("the query has a text and an image", expected="one of them")
    if texts is not None:
        listed = many("texts", texts, "a list of texts")
        encoded = encoder.encode_query_texts(listed, timeout_s=deadline.within(timeout_s))
        return EncodedQueries("text", encoded.embeddings, encoded.text_side, listed)
    decoded, sources = [], []
    for image in images or ():
        deadline.check("the images were decoded")
        decoded.append(encoder.decode(image))
        sources.append(decoded[-1] if hasattr(image, "read") else image)  # a file was read to its end
    pixels = encoder.encode_images(decoded, timeout_s=deadline.within(timeout_s))
    return EncodedQueries("image", pixels.embeddings, pixels.image_side, sources)
