"""Generated image files: small files of every readable format, damaged in every way that storage and networks know."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from milvus_coop.models.preprocess.formats import READS_AVIF, READS_HEIC
from tests.fuzz.damage import damaged


def _saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


@functools.cache
def files() -> Mapping[str, bytes]:
    """Small files of every format that can be read here, and of its kinds that are decoded differently."""
    y, x = np.mgrid[0:24, 0:40]
    rgb = Image.fromarray(np.stack([x * 6, y * 10, (x * y) % 256], axis=-1).astype(np.uint8))
    rgba = rgb.convert("RGBA")
    rgba.putalpha(100)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "jpeg": _saved(rgb, "JPEG", exif=exif),
        "progressive jpeg": _saved(rgb, "JPEG", progressive=True),
        "jpeg with restarts": _saved(rgb, "JPEG", restart_marker_blocks=2),
        "cmyk jpeg": _saved(rgb.convert("CMYK"), "JPEG"),
        "png": _saved(rgb, "PNG", exif=exif),
        "16-bit png": _saved(Image.fromarray((x * 1000).astype(np.uint16)), "PNG"),
        "palette png": _saved(rgb.convert("P"), "PNG", transparency=0),
        "webp": _saved(rgb, "WEBP", exif=exif),
        "lossless webp": _saved(rgba, "WEBP", lossless=True),
        "gif": _saved(rgb.convert("P"), "GIF", save_all=True, append_images=[rgb.rotate(90).convert("P")]),
        "bmp": _saved(rgb, "BMP"),
        "tiff": _saved(rgb, "TIFF"),
        "lzw tiff": _saved(rgba, "TIFF", compression="tiff_lzw"),
        "jpeg tiff": _saved(rgb, "TIFF", compression="jpeg"),
        "float tiff": _saved(Image.fromarray(x.astype(np.float32)), "TIFF"),
    }
    if READS_AVIF:
        made["avif"] = _saved(rgb, "AVIF", exif=exif)
    if READS_HEIC:
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(rgba).save(file)
        made["heic"] = file.getvalue()
    return made


def damaged_files() -> st.SearchStrategy[bytes]:
    """A file after one to four kinds of damage."""
    return st.sampled_from(sorted(files())).flatmap(lambda name: damaged(files(), name))
