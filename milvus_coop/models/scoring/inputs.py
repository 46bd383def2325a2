"""Checks of the texts and images that a user gives to `CoopModel`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from milvus_coop.arguments import iterable, length_of, many
from milvus_coop.errors import ImageError, InvalidArgumentError
from milvus_coop.models.preprocess.images import ImageInput, name_in_errors
from milvus_coop.models.preprocess.texts import check_text

OnError = Callable[[int, ImageError], None]
"""A function that is called with the position of an image that cannot be used, and with the error."""

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


def check_images(images: Iterable[ImageInput]) -> Iterable[ImageInput]:
    """The same images, which are not read yet.

    Raises:
        InvalidArgumentError: `images` is a single image or not an iterable. The lines of an open file are no images.
    """
    if hasattr(images, "read"):  # the lines of an open file would be taken for images
        raise InvalidArgumentError("images is an open file", expected=EXPECTED_IMAGES)
    return iterable("images", images, EXPECTED_IMAGES)


def check_lengths(n_texts: int, images: Iterable[ImageInput]) -> None:
    """Compare the number of texts with the number of images, if that is known before the images are read.

    Raises:
        InvalidArgumentError: they differ.
    """
    if (n := length_of(images)) not in (None, n_texts):
        raise lengths_differ(n_texts, f"{n:,}")


def lengths_differ(n_texts: int, n_images: str) -> InvalidArgumentError:
    """The error for different numbers of texts and images."""
    return InvalidArgumentError(
        f"there are {n_texts:,} texts, and {n_images} images", expected="as many images as texts: text i is scored with image i"
    )


def name_of(image: object, position: int) -> str:
    """The name of an image in errors: its position, and its path or file name if it has one."""
    path = image if isinstance(image, str | os.PathLike) else getattr(image, "name", None)
    return f"image {position} ({name_in_errors(path)})" if path else f"image {position}"
