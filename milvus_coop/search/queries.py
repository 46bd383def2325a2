"""Encodes queries: texts or images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from PIL import Image

from milvus_coop.arguments import as_path, strings
from milvus_coop.errors import InvalidArgumentError, quoted
from milvus_coop.models.encoder import Encoder
from milvus_coop.search.images import local_path
from milvus_coop.store.schema import MAX_K
from milvus_coop.types import Array, Kind

ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image
"""An image: a path, the bytes of an image file, or a Pillow image."""

EXPECTED_IMAGE = "a path, the bytes of an image file, or a Pillow image"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|https?:/|data:[^/]*/[^/]*[;,]", re.IGNORECASE)  # a Path makes https:/host of https://host


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """n encoded queries, all texts or all images."""

    kind: Kind
    embeddings: Array
    """float32 of shape (n, dim), unit rows."""
    side: Mapping[str, Array]
    """The cross-encoder's inputs for the queries, by name: its text inputs or its image inputs; each array has shape (n, ...)."""


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
    encoder: Encoder, texts: Iterable[str] | None, images: Iterable[ImageInput] | None, timeout_s: float
) -> EncodedQueries:
    """Encode texts or images.

    Raises:
        InvalidArgumentError: neither or both are given, a text is blank, too long or not valid Unicode, or an image has a type that
            cannot be an image.
        ImageError: an image cannot be read.
        BackendError: the backend failed. A search is not possible without an embedding.
    """
    if texts is None and images is None:
        raise InvalidArgumentError("the query has neither a text nor an image", expected="one of them")
    if texts is not None and images is not None:
        raise InvalidArgumentError("the query has a text and an image", expected="one of them")
    if texts is not None:
        encoded = encoder.encode_texts(texts, timeout_s=timeout_s)
        return EncodedQueries("text", encoded.embeddings, encoded.text_side)
    decoded = [decode_query(encoder, image) for image in images or ()]
    pixels = encoder.encode_images(decoded, timeout_s=timeout_s)
    return EncodedQueries("image", pixels.embeddings, pixels.image_side)


def decode_query(encoder: Encoder, image: ImageInput) -> Image.Image:
    """Decode the image of a query; see `Encoder.decode`.

    Raises:
        InvalidArgumentError: it is a URL, which is not fetched, or has a type that cannot be an image.
        ImageError: it cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        text = os.fspath(image)
        if not text:
            raise InvalidArgumentError("image is an empty path", expected=EXPECTED_IMAGE)
        file = local_path(text) if _URL.match(text) else text
        if file is None:
            raise InvalidArgumentError(f"image is the URL {quoted(text)}, and URLs are not fetched", expected=EXPECTED_IMAGE)
        return encoder.decode(as_path("image", file))
    if not isinstance(image, bytes | bytearray | memoryview | Image.Image):
        raise InvalidArgumentError(f"image is {quoted(image)}", expected=EXPECTED_IMAGE)
    return encoder.decode(image)
