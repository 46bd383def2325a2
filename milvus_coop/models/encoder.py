"""The bi-encoder: it turns texts and images into unit vectors and into the inputs of the cross-encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from milvus_coop.arguments import many
from milvus_coop.bundle.spec import (
    CE_PREFIX,
    CROSS_ENCODER,
    IMAGE_ENCODER,
    IMAGE_TOKEN_SCALES,
    IMAGE_TOKENS,
    PATCH_MASK,
    PIXELS,
    TEXT_ENCODER,
    BundleSpec,
    TensorSpec,
)
from milvus_coop.bundle.text_states import reads_text_encoder
from milvus_coop.models.backends.base import Backend
from milvus_coop.models.preprocess.images import MAX_PIXELS, ImageInput, decode, format_of, normalise, patch_mask, to_pixels
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.text_memory import TextMemory
from milvus_coop.models.tokens import quantise
from milvus_coop.types import Array

Pixels = Mapping[str, Array]
"""The inputs of a graph for one image by input name, each of shape (1, ...)."""


def join_pixels(pixels: Sequence[Pixels]) -> dict[str, Array]:
    """The inputs of several images as one batch."""
    return {name: np.concatenate([arrays[name] for arrays in pixels]) for name in pixels[0]}


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """n encoded texts."""

    embeddings: Array
    """float32 of shape (n, dim), unit rows."""
    text_side: Mapping[str, Array]
    """The cross-encoder's inputs for the texts, by input name; each array has shape (n, ...)."""


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """n encoded images."""

    embeddings: Array
    """float32 of shape (n, dim), unit rows."""
    image_side: Mapping[str, Array]
    """The cross-encoder's inputs for the images, by input name: int8 `image_tokens` of shape (n, count, token_dim) and float16
    `image_token_scales` of shape (n, count). For a bundle that keeps no tokens: uint8 pixels of shape (n, 3, size, size)."""

    @property
    def tokens(self) -> Array:
        """Image tokens, int8 of shape (n, count, token_dim). Raises KeyError for bundles without tokens."""
        return self.image_side[IMAGE_TOKENS]

    @property
    def scales(self) -> Array:
        """Scales of the image tokens, float16 of shape (n, count). Raises KeyError for bundles without tokens."""
        return self.image_side[IMAGE_TOKEN_SCALES]


class Encoder(ABC):
    """The bi-encoder of a bundle (`BundleEncoder`) or of a server. Safe to share between threads.

    Args:
        max_pixels: see `decode`.
        runs: number of batches that a caller may encode at the same time; see `open_models`.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, runs: int = 1) -> None:
        self._max_pixels = max_pixels
        self.runs = runs

    @property
    @abstractmethod
    def spec(self) -> BundleSpec:
        """The record of the bundle in use."""

    @abstractmethod
    def encode_texts(self, texts: Iterable[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """Encode texts. Long texts are cut at the bundle's text length.

        Raises:
            BackendError: the backend failed; see `Backend.run`.
        """

    @abstractmethod
    def encode_query_texts(self, texts: Iterable[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """As `encode_texts`. The texts encoded last are remembered, since a page, a filter or a rerank asks the same one again."""

    @abstractmethod
    def text_side(self, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """The cross-encoder's inputs for tokenised texts, for callers that need no embeddings.

        The text encoder runs only if the cross-encoder reads its outputs.

        Args:
            inputs: the result of `tokenise`.
            timeout_s: time limit of the run.

        Raises:
            BackendError: the backend failed; see `Backend.run`.
        """

    @abstractmethod
    def tokenise(self, texts: Iterable[str]) -> dict[str, Array]:
        """The text inputs of the bundle's graphs by name, each int64 of shape (n, length).

        Raises:
            InvalidArgumentError: a text is blank, too long or not valid Unicode, or `texts` is a single text.
        """

    @abstractmethod
    def pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """The inputs of the bundle's image encoder for decoded RGB images.

        Returns:
            `pixel_values` of shape (n, 3, size, size), in the graph's dtype: uint8, or normalised float32. If the bundle has them,
            also `ce_pixel_values`, and uint8 masks `patch_mask` of shape (n, rows, columns).
        """

    @abstractmethod
    def ce_pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """The inputs of a cross-encoder that reads pixels, as in `pixels`; empty if it reads tokens."""

    @abstractmethod
    def encode_pixels(self, pixels: Mapping[str, Array], *, timeout_s: float | None = None) -> EncodedImages:
        """Encode the arrays that `pixels` returned. Add those of `ce_pixels` if the cross-encoder will need them.

        Raises:
            BackendError: the backend failed; see `Backend.run`.
        """

    def encode_images(self, images: Sequence[Image], *, timeout_s: float | None = None) -> EncodedImages:
        """Encode decoded RGB images of any size; see `decode`."""
        return self.encode_pixels({**self.pixels(images), **self.ce_pixels(images)}, timeout_s=timeout_s)

    def decode(self, image: ImageInput, *, name: str = "") -> Image:
        """Decode an image for `pixels` or `encode_images`: upright RGB on the bundle's background, no larger than the bundle needs.

        Items and queries are both decoded here, so that the same image always becomes the same pixels.

        Args:
            image: a path or a file:// URI, the bytes of a file, a file opened for reading, or an image of Pillow.
            name: the name of the image in errors; default its path.

        Raises:
            ImageError: the image cannot be read; among others because it is a URL, which is not fetched.
            InvalidArgumentError: `image` has a type that cannot be an image.
        """
        return decode(
            image,
            at_least=self.spec.largest_image,
            background=self.spec.image.background,
            max_pixels=self._max_pixels,
            name=name,
        )

    def format_of(self, content: bytes) -> str:
        """The name of the format of an image file, such as JPEG, if its header shows nothing that `decode` would refuse.

        Raises:
            ImageError: `decode` would refuse it.
        """
        return format_of(content, at_least=self.spec.largest_image, max_pixels=self._max_pixels)


class BundleEncoder(Encoder):
    """Runs the two encoders of a backend's bundle.

    Args:
        backend: runs the graphs.
        tokenizer: the bi-encoder's.
        ce_tokenizer: the cross-encoder's, if it has its own.
        max_pixels: see `decode`.
        remembered_texts: maximum number of texts that `encode_query_texts` remembers.
        runs: see `Encoder`.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        ce_tokenizer: Tokenizer | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        remembered_texts: int = 0,
        runs: int = 1,
    ) -> None:
        super().__init__(max_pixels, runs)
        self._backend = backend
        self._memory = TextMemory(backend.spec.graph(TEXT_ENCODER), remembered_texts)
        self._tokenizer = tokenizer
        self._ce_tokenizer = ce_tokenizer

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle in use."""
        return self._backend.spec

    def encode_texts(self, texts: Iterable[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """See `Encoder.encode_texts`."""
        inputs = self.tokenise(texts)
        return self._encoded(inputs, self._backend.run(TEXT_ENCODER, inputs, timeout_s=timeout_s))

    def encode_query_texts(self, texts: Iterable[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """See `Encoder.encode_query_texts`."""
        listed = many("texts", texts, "a list of texts")
        inputs = self.tokenise(listed)

        def run(rows: Sequence[int]) -> dict[str, Array]:
            some = inputs if len(rows) == len(listed) else {name: array[list(rows)] for name, array in inputs.items()}
            return self._backend.run(TEXT_ENCODER, some, timeout_s=timeout_s)

        return self._encoded(inputs, self._memory.outputs(listed, inputs["input_ids"].shape[1], run))

    def _encoded(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> EncodedTexts:
        arrays = {**inputs, **outputs}
        return EncodedTexts(outputs["text_embedding"], {name: arrays[name] for name in self.spec.text_side})

    def text_side(self, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Encoder.text_side`."""
        arrays = dict(inputs)
        if reads_text_encoder(self.spec):
            arrays |= self._backend.run(TEXT_ENCODER, inputs, timeout_s=timeout_s)
        return {name: arrays[name] for name in self.spec.text_side}

    def tokenise(self, texts: Iterable[str]) -> dict[str, Array]:
        """See `Encoder.tokenise`."""
        listed = many("texts", texts, "a list of texts")
        arrays = self._tokenizer(listed)
        if self._ce_tokenizer is not None:
            arrays |= {CE_PREFIX + name: array for name, array in self._ce_tokenizer(listed).items()}
        return arrays

    def pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """See `Encoder.pixels`."""
        return self._fit(images, IMAGE_ENCODER)

    def ce_pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """See `Encoder.ce_pixels`."""
        return self._fit(images, CROSS_ENCODER)

    def encode_pixels(self, pixels: Mapping[str, Array], *, timeout_s: float | None = None) -> EncodedImages:
        """See `Encoder.encode_pixels`."""
        outputs = self._backend.run(IMAGE_ENCODER, pixels, timeout_s=timeout_s)
        if IMAGE_TOKENS in outputs:
            tokens, scales = quantise(outputs[IMAGE_TOKENS])
            return EncodedImages(outputs["image_embedding"], {IMAGE_TOKENS: tokens, IMAGE_TOKEN_SCALES: scales})
        side = {name: pixels[name] for name in self._pixel_inputs(CROSS_ENCODER) if name in pixels}
        return EncodedImages(outputs["image_embedding"], side)

    def _pixel_inputs(self, graph: str) -> dict[str, TensorSpec]:
        """The inputs of a graph that are images or masks, by name."""
        return {tensor.name: tensor for tensor in self.spec.graph(graph).inputs if tensor.name.endswith((PIXELS, PATCH_MASK))}

    def _fit(self, images: Sequence[Image], graph: str) -> dict[str, Array]:
        arrays = {}
        for name, tensor in self._pixel_inputs(graph).items():
            spec = self.spec.image_of(name)
            if name.endswith(PATCH_MASK):
                arrays[name] = np.stack([patch_mask(image.size, spec) for image in images])
            else:
                pixels = np.stack([to_pixels(image, spec) for image in images])
                arrays[name] = pixels if tensor.dtype == "uint8" else normalise(pixels, spec)
        return arrays
