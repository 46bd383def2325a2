"""Checks of the texts and images that a user gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import IO, Any

from PIL import Image

from milvus_coop.arguments import iterable, many
from milvus_coop.errors import ImageError, InvalidArgumentError
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.preprocess.images import image_name
from milvus_coop.models.preprocess.texts import check_text

ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image
"""An image: a path, the bytes of an image file, a file that is open for reading at its start, or a Pillow image."""

OnError = Callable[[int, ImageError], None]
"""A function that is called with the position of an image that cannot be used, and with the error."""

EXPECTED_IMAGE = "a path, the bytes of an image file, an open file, or a Pillow image"
EXPECTED_IMAGES = 'a list of images, such as ["photo.jpg"]'


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list.

    Raises:
        InvalidArgumentError: `texts` is a single text or not an iterable, or a text is blank, too long or not a string. The message
            says which text.
    """
    listed = many("texts", texts, 'a list of texts, such as ["a dog"]')
    for position, text in enumerate(listed):
        try:
            check_text(text)
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"text {position}: {exc.given}", expected=exc.expected) from exc
    return listed


def check_images(images: Iterable[ImageLike]) -> Iterable[ImageLike]:
    """The same images, which are not read yet.

    Raises:
        InvalidArgumentError: `images` is a single image or not an iterable.
    """
    if hasattr(images, "read"):  # the lines of an open file would be taken for images
        raise InvalidArgumentError("images is an open file", expected=EXPECTED_IMAGES)
    return iterable("images", images, EXPECTED_IMAGES)


def check_lengths(n_texts: int, images: Iterable[ImageLike]) -> None:
    """Compare the number of texts with the number of images, if that is known before the images are read.

    Raises:
        InvalidArgumentError: they differ.
    """
    if isinstance(images, Sized) and len(images) != n_texts:
        raise lengths_differ(n_texts, f"{len(images):,}")


def lengths_differ(n_texts: int, n_images: str) -> InvalidArgumentError:
    """The error for different numbers of texts and images."""
    return InvalidArgumentError(
        f"there are {n_texts:,} texts, and {n_images} images", expected="as many images as texts: text i is scored with image i"
    )


def path_of(image: Any, position: int) -> Path | None:
    """The path of an image; None if it is given in another form.

    Raises:
        InvalidArgumentError: the object has a type that cannot be an image.
    """
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if isinstance(image, bytes | bytearray | memoryview | Image.Image) or hasattr(image, "read"):
        return None
    raise InvalidArgumentError(f"image {position} is of type {type(image).__name__}", expected=EXPECTED_IMAGE)


def decode(encoder: Encoder, image: Path | bytes | IO[bytes] | Image.Image, position: int) -> Image.Image:
    """Decode an image for the encoder; see `Encoder.decode`.

    Raises:
        ImageError: the image cannot be used; the message starts with its `name_of`.
    """
    return encoder.decode(image, name=name_of(image, position))


def name_of(image: object, position: int) -> str:
    """The name of an image in errors: its position, and its path or file name if it has one."""
    path = image if isinstance(image, os.PathLike) else getattr(image, "name", None)
    return f"image {position} ({image_name(path)})" if path else f"image {position}"
