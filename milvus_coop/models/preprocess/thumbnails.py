"""Small pictures to look at."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from milvus_coop.models.preprocess.images import decode


def thumbnail(source: Path | bytes, edge: int, *, quality: int = 80) -> bytes:
    """A picture as a JPEG file whose longer edge has at most `edge` pixels: upright, on white, without the original's metadata.

    Args:
        source: a path, or the bytes of a file.
        edge: pixels; smaller pictures keep their size.
        quality: of JPEG, 1 to 95.

    Raises:
        ImageError: the picture cannot be read.
    """
    image = decode(source, at_least=edge)
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
