"""Small copies of pictures to look at."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from milvus_coop.errors import ImageUnreadableError
from milvus_coop.preprocess.images import decode


def thumbnail(source: Path | bytes, edge: int, *, quality: int = 75) -> bytes:
    """A small JPEG file of a picture: upright, on white where it is transparent, without anything that its metadata said.

    Args:
        source: a path, or the bytes of an image file.
        edge: pixels of the longer edge; a smaller picture keeps its size.
        quality: of the JPEG file, 1 to 95.

    Raises:
        ImageUnreadableError: missing, not a regular file, or not an image of a known format.
        ImageTooLargeError: more pixels than are decoded.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():  # opening a pipe would wait for ever
        raise ImageUnreadableError(f"{source} is not a regular file")
    image = decode(source, at_least=edge)
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would write a comment again
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
