"""Embeds texts and images for clients without this SDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milvus_coop.bundle.spec import IMAGE_ENCODER, IMAGE_TOKENS, TEXT_ENCODER
from milvus_coop.deadline import Deadline
from milvus_coop.errors import InvalidArgumentError, MilvusCoopError
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.models.tokens import pack
from milvus_coop.serving.gateway.data_uris import image_in, is_data_uri
from milvus_coop.types import Array

IMAGES_AT_ONCE = 8
"""Maximum number of decoded images in memory. It is small because some models need images at full size."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One embedded input."""

    embedding: Array
    """float32 of shape (dim,), unit length."""
    tokens: int
    """Number of tokens that the model read: text tokens of a text, image tokens of an image."""
    image_tokens: str | None = None


def embed(encoder: Encoder, inputs: Sequence[str], deadline: Deadline) -> list[Embedded]:
    """Embed texts and images, in their order.

    Args:
        encoder: the encoder of the bundle in use.
        inputs: texts, and images as data URIs.
        deadline: the moment by which to be done.

    Raises:
        InvalidArgumentError, ImageError: an input cannot be read; the message says which.
        DeadlineExceededError: the deadline came first.
        BackendError: the backend failed.
    """
    found: dict[int, Embedded] = {}
    images = [i for i, text in enumerate(inputs) if is_data_uri(text)]
    texts = [i for i, text in enumerate(inputs) if not is_data_uri(text)]
    for positions, graph in ((texts, TEXT_ENCODER), (images, IMAGE_ENCODER)):
        step = encoder.spec.graph(graph).max_batch if graph == TEXT_ENCODER else IMAGES_AT_ONCE
        for start in range(0, len(positions), step):
            chunk = positions[start : start + step]
            some = [inputs[i] for i in chunk]
            with deadline.toward(f"all {len(inputs)} inputs were embedded; {len(found)} were"):
                embedded = (_texts if graph == TEXT_ENCODER else _images)(encoder, some, chunk, deadline.remaining())
            found.update(zip(chunk, embedded, strict=True))
    return [found[i] for i in range(len(inputs))]


def _texts(encoder: Encoder, texts: Sequence[str], places: Sequence[int], timeout_s: float) -> list[Embedded]:
    for text, place in zip(texts, places, strict=True):
        try:
            check_text(text)
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"input[{place}]: {exc.given}", expected=exc.expected) from exc
    counts = encoder.tokenise(texts)["attention_mask"].sum(axis=1)
    embeddings = encoder.encode_texts(texts, timeout_s=timeout_s).embeddings
    return [Embedded(embedding, int(n)) for embedding, n in zip(embeddings, counts, strict=True)]


def _images(encoder: Encoder, uris: Sequence[str], places: Sequence[int], timeout_s: float) -> list[Embedded]:
    images = []
    for uri, place in zip(uris, places, strict=True):
        try:
            images.append(encoder.decode(image_in(uri)))
        except MilvusCoopError as exc:
            raise type(exc)(f"input[{place}]: {exc.given}", expected=exc.expected) from exc
    encoded = encoder.encode_images(images, timeout_s=timeout_s)
    kept = pack(encoded.tokens, encoded.scales) if IMAGE_TOKENS in encoded.image_side else [None] * len(images)
    count = encoder.spec.tokens.count
    return [Embedded(embedding, count, tokens) for embedding, tokens in zip(encoded.embeddings, kept, strict=True)]
