"""Thumbnails: small versions of images, for people to look at."""

from __future__ import annotations

import io

from PIL import Image

from milvus_coop.models.preprocess.images import MAX_PIXELS, ImageInput, decode


def thumbnail(source: ImageInput, edge: int, *, quality: int = 80, max_pixels: int = MAX_PIXELS) -> bytes:
    """A small version of an image as a JPEG file: upright, on white, without the metadata of the original.

    Args:
        source: see `decode`.
        edge: maximum length of the longer edge in pixels; smaller images keep their size.
        quality: JPEG quality, 1 to 95.
        max_pixels: see `decode`.

    Raises:
        ImageError: the image cannot be read.
    """
    image = decode(source, at_least=edge, max_pixels=max_pixels)
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
