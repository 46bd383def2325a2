"""Pictures to pixels: decode safely, upright, on a background, then to the bundle's square.

`decode` needs no bundle; `to_pixels` follows its `ImageSpec`. Both release the GIL in Pillow's C code, so threads help.
"""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import ImageTooLargeError, ImageUnreadableError
from milvus_coop.types import Array

MAX_PIXELS = 89_478_485
"""Largest picture that is decoded in full (Pillow's own warning limit: 256 MB as RGB)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened; every other decoder of Pillow stays shut."""

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_open_lock = threading.Lock()


def decode(
    source: Path | bytes,
    *,
    at_least: int = 0,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode one picture to RGB: first frame, EXIF orientation applied, transparency on `background`.

    Args:
        source: a path, or the file's bytes.
        at_least: large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size as long as both edges stay at least this long; 0: never.
        background: RGB colour behind transparent pixels.
        max_pixels: limit on width * height as decoded.

    Raises:
        ImageUnreadableError: missing, truncated, or not an image of a known format.
        ImageTooLargeError: more than `max_pixels` pixels.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        # An explicit file object: on an error Image.open would leave the file of a path open.
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file, _open(file) as image:
            if at_least and image.format == "JPEG":
                image.draft("RGB", (at_least, at_least))
            if image.width * image.height > max_pixels:
                raise ImageTooLargeError(
                    f"{name} has {image.width:,} x {image.height:,} pixels", expected=f"at most {max_pixels:,} pixels"
                )
            image.load()
            return _flatten(ImageOps.exif_transpose(image), background)
    except ImageTooLargeError:
        raise
    except Image.DecompressionBombError as exc:
        raise ImageTooLargeError(f"{name} has too many pixels", expected=f"at most {max_pixels:,} pixels") from exc
    except UnidentifiedImageError as exc:
        raise ImageUnreadableError(f"{name} is not an image", expected=f"one of {', '.join(FORMATS)}") from exc
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, IndexError, TypeError) as exc:
        raise ImageUnreadableError(f"{name} cannot be read: {exc}") from exc


def to_pixels(image: Image.Image, spec: ImageSpec) -> Array:
    """Fit an RGB picture into the bundle's square.

    Returns:
        uint8 array of shape (3, size, size), RGB.
    """
    size, filter_ = spec.size, RESAMPLING[spec.resampling]
    if spec.fit == "stretch":
        square = image.resize((size, size), filter_)
    elif spec.fit == "crop":
        square = ImageOps.fit(image, (size, size), filter_)
    else:
        square = ImageOps.pad(image, (size, size), filter_, color=spec.background)
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def _open(file: io.BufferedIOBase | io.BytesIO) -> Image.Image:
    # The size is checked in `decode`, so Pillow's warning about it would only confuse; filters are per process, hence the lock.
    with _open_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=FORMATS)


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return _scale_to_8_bit(image).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*background, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips everything above 255 to white.
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        top = max(float(values.max(initial=0.0)), 1e-12) if values.max(initial=0.0) > 1.0 else 1.0
    else:
        top = 65535.0 if values.max(initial=0.0) > 255 else 255.0
    return Image.fromarray(np.clip(values / top * 255.0, 0, 255).astype(np.uint8))
