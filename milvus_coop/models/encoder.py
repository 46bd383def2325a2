"""The bi-encoder: texts and pictures to unit vectors, and to what the cross-encoder reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL.Image import Image

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
from milvus_coop.models.backends.base import Backend
from milvus_coop.models.preprocess.images import decode, normalise, patch_mask, to_pixels
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.tokens import quantise
from milvus_coop.types import Array


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """n encoded texts."""

    embeddings: Array
    """float32 of shape (n, dim), unit rows."""
    text_side: Mapping[str, Array]
    """What the cross-encoder reads of them, by input name; each array of shape (n, ...)."""


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """n encoded pictures."""

    embeddings: Array
    """float32 of shape (n, dim), unit rows."""
    image_side: Mapping[str, Array]
    """What the cross-encoder reads of them, by input name: int8 `image_tokens` of shape (n, count, token_dim) and float16
    `image_token_scales` of shape (n, count); for a bundle that keeps no tokens its pixels, uint8 of shape (n, 3, size, size)."""

    @property
    def tokens(self) -> Array:
        """int8 of shape (n, count, token_dim); a KeyError for bundles that have none."""
        return self.image_side[IMAGE_TOKENS]

    @property
    def scales(self) -> Array:
        """float16 of shape (n, count); a KeyError for bundles that have none."""
        return self.image_side[IMAGE_TOKEN_SCALES]


class Encoder:
    """Runs the two encoders of a backend's bundle. Safe to share between threads."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer, ce_tokenizer: Tokenizer | None = None) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self._ce_tokenizer = ce_tokenizer

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle in use."""
        return self._backend.spec

    def encode_texts(self, texts: Sequence[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """Encode texts; long ones are cut at the bundle's text length.

        Raises:
            BackendError: if the backend fails; see `Backend.run`.
        """
        inputs = self.tokenise(texts)
        outputs = self._backend.run(TEXT_ENCODER, inputs, timeout_s=timeout_s)
        arrays = {**inputs, **outputs}
        return EncodedTexts(outputs["text_embedding"], {name: arrays[name] for name in self.spec.text_side})

    def tokenise(self, texts: Sequence[str]) -> dict[str, Array]:
        """The text inputs of the bundle's graphs by name, each int64 of shape (n, length).

        Raises:
            InvalidArgumentError: a text is blank or too long.
        """
        arrays = self._tokenizer(texts)
        if self._ce_tokenizer is not None:
            arrays |= {CE_PREFIX + name: array for name, array in self._ce_tokenizer(texts).items()}
        return arrays

    def decode(self, picture: Path | bytes | IO[bytes] | Image, *, name: str = "") -> Image:
        """Decode a picture for `pixels` or `encode_images`: upright RGB on the bundle's background, no larger than it is worth.

        Items and queries come through here, so that the same picture always becomes the same pixels.

        Args:
            picture: a path, the bytes of a file, a file opened for reading, or a picture that Pillow has opened.
            name: what errors call it; default its path.

        Raises:
            ImageError: it cannot be read.
        """
        return decode(picture, at_least=self.spec.largest_image, background=self.spec.image.background, name=name)

    def pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """Fit decoded RGB pictures to the bundle: the inputs of its image encoder.

        Returns:
            `pixel_values` of shape (n, 3, size, size), uint8 or normalised float32 as the graph asks; where the bundle has them
            also `ce_pixel_values`, and uint8 masks `patch_mask` of shape (n, rows, columns).
        """
        return self._fit(images, IMAGE_ENCODER)

    def ce_pixels(self, images: Sequence[Image]) -> dict[str, Array]:
        """The same for a cross-encoder that reads pixels; empty where it reads tokens."""
        return self._fit(images, CROSS_ENCODER)

    def encode_pixels(self, pixels: Mapping[str, Array], *, timeout_s: float | None = None) -> EncodedImages:
        """Encode what `pixels` returned; together with what `ce_pixels` returned, where the cross-encoder is to read that.

        Raises:
            BackendError: if the backend fails; see `Backend.run`.
        """
        outputs = self._backend.run(IMAGE_ENCODER, pixels, timeout_s=timeout_s)
        if IMAGE_TOKENS in outputs:
            tokens, scales = quantise(outputs[IMAGE_TOKENS])
            return EncodedImages(outputs["image_embedding"], {IMAGE_TOKENS: tokens, IMAGE_TOKEN_SCALES: scales})
        side = {name: pixels[name] for name in self._pixel_inputs(CROSS_ENCODER) if name in pixels}
        return EncodedImages(outputs["image_embedding"], side)

    def encode_images(self, images: Sequence[Image], *, timeout_s: float | None = None) -> EncodedImages:
        """Encode decoded RGB pictures of any size; see `decode`."""
        return self.encode_pixels({**self.pixels(images), **self.ce_pixels(images)}, timeout_s=timeout_s)

    def _pixel_inputs(self, graph: str) -> dict[str, TensorSpec]:
        """The inputs of a graph that are pictures or masks, by name."""
        return {tensor.name: tensor for tensor in self.spec.graph(graph).inputs if tensor.name.endswith((PIXELS, PATCH_MASK))}

    def _fit(self, images: Sequence[Image], graph: str) -> dict[str, Array]:
        arrays = {}
        for name, tensor in self._pixel_inputs(graph).items():
            spec = self.spec.image_of(name)
            if name.endswith(PATCH_MASK):
                arrays[name] = np.stack([patch_mask(image.size, spec, tensor.shape[0]) for image in images])
            else:
                pixels = np.stack([to_pixels(image, spec) for image in images])
                arrays[name] = pixels if tensor.dtype == "uint8" else normalise(pixels, spec)
        return arrays
