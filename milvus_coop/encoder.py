"""The bi-encoder: texts and pictures to unit vectors, and to what the cross-encoder reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL.Image import Image

from milvus_coop.backends.base import Backend
from milvus_coop.bundle.spec import IMAGE_ENCODER, IMAGE_TOKENS, TEXT_ENCODER, BundleSpec
from milvus_coop.preprocess.images import decode, to_pixels, upright_rgb
from milvus_coop.preprocess.texts import Tokenizer
from milvus_coop.tokens import quantise
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
    tokens: Array
    """int8 of shape (n, count, token_dim)."""
    scales: Array
    """float16 of shape (n, count)."""


class Encoder:
    """Runs the two encoders of a backend's bundle. Safe to share between threads."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer) -> None:
        self._backend = backend
        self._tokenizer = tokenizer

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle in use."""
        return self._backend.spec

    def encode_texts(self, texts: Sequence[str], *, timeout_s: float | None = None) -> EncodedTexts:
        """Encode texts; long ones are cut at the bundle's text length.

        Raises:
            BackendError: if the backend fails; see `Backend.run`.
        """
        inputs = self._tokenizer(texts)
        outputs = self._backend.run(TEXT_ENCODER, inputs, timeout_s=timeout_s)
        arrays = {**inputs, **outputs}
        return EncodedTexts(outputs["text_embedding"], {name: arrays[name] for name in self.spec.text_side})

    def decode(self, picture: Path | bytes | IO[bytes] | Image) -> Image:
        """Decode a picture for `pixels` or `encode_images`: upright RGB on the bundle's background, no larger than it is worth.

        Items and queries come through here, so that the same picture always becomes the same pixels.

        Args:
            picture: a path, the bytes of a file, a file opened for reading, or a picture that Pillow has opened.

        Raises:
            ImageError: it cannot be read.
        """
        spec = self.spec.image
        if isinstance(picture, Image):
            return upright_rgb(picture, spec.background)
        return decode(picture, at_least=spec.size, background=spec.background)

    def pixels(self, images: Sequence[Image]) -> Array:
        """Fit decoded RGB pictures to the bundle: array of shape (n, 3, size, size), uint8 or normalised float32 as it asks."""
        pixels = np.stack([to_pixels(image, self.spec.image) for image in images])
        if self.spec.graph(IMAGE_ENCODER).inputs[0].dtype == "uint8":
            return pixels
        mean, std = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (self.spec.image.mean, self.spec.image.std))
        return (pixels.astype(np.float32) / 255.0 - mean) / std

    def encode_pixels(self, pixels: Array, *, timeout_s: float | None = None) -> EncodedImages:
        """Encode what `pixels` returned.

        Raises:
            BackendError: if the backend fails; see `Backend.run`.
        """
        outputs = self._backend.run(IMAGE_ENCODER, {"pixel_values": pixels}, timeout_s=timeout_s)
        tokens, scales = quantise(outputs[IMAGE_TOKENS])
        return EncodedImages(outputs["image_embedding"], tokens, scales)

    def encode_images(self, images: Sequence[Image], *, timeout_s: float | None = None) -> EncodedImages:
        """Encode decoded RGB pictures of any size; see `decode`."""
        return self.encode_pixels(self.pixels(images), timeout_s=timeout_s)
