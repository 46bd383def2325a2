"""Images to pixels: decode an image safely, turn it upright, put it on a background, and fit it into the bundle's square.

`decode` needs no bundle; `to_pixels` follows the bundle's `ImageSpec`. Both release the GIL in Pillow's C code, so threads help.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import ImageError, ImageTooLargeError, ImageUnreadableError, InvalidArgumentError, reason_of, shortened
from milvus_coop.models.preprocess.formats import FORMATS, MAX_PIXELS, UPRIGHT, check_size, load_image, open_image, orientation
from milvus_coop.models.preprocess.uris import is_url, local_path, with_slashes
from milvus_coop.types import Array

__all__ = ["FORMATS", "MAX_PIXELS", "ImageInput", "decode", "to_pixels"]

ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image
"""An image: a path or a file:// URI, the bytes of an image file, a file open for reading at its start, or an image of Pillow."""

LONGEST_OF_EDGE = 1333 / 800
"""Maximum ratio of the longer to the shorter edge in the preprocessing of ViLT and BridgeTower, taken from object detection."""

LONGEST_OF_CROP = 64
"""Maximum length of a resized image, in squares. A longer strip is not resized as a whole."""

LONGEST_NAME = 200
"""Maximum number of characters of a name that errors repeat."""

_SCALE_STEP = 1e-5  # of the search in patch_grid, as in transformers

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def decode(
    source: ImageInput,
    *,
    at_least: int = 0,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    name: str = "",
) -> Image.Image:
    """Decode the first frame of an image to RGB, apply the EXIF orientation, and put transparent parts on `background`.

    Args:
        source: a path or a file:// URI, the bytes of a file (in any object with a buffer), a file that is open for reading at its
            start (it is not closed), or a Pillow image. Other URLs are refused.
        at_least: large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size as long as both edges keep at least this length;
            0 means never.
        background: RGB colour behind transparent pixels.
        max_pixels: maximum of width * height, checked before anything is decoded. A baseline JPEG may have 2.5 times as many
            pixels if `at_least` shrinks it.
        name: the name of the image in errors; default its path.

    Raises:
        ImageUnreadableError: the file is missing, truncated, or not an image of a known format.
        ImageTooLargeError: the image has more than `max_pixels` pixels.
        InvalidArgumentError: `source` is of another type.
    """
    with _named_errors(name or _name_of(source), max_pixels):
        if isinstance(source, Image.Image):
            check_size(*source.size, max_pixels)
            return upright_rgb(source, background)  # this may load the file: Pillow opens files lazily
        if isinstance(source, str | os.PathLike):
            # The file is opened here because Pillow would leave it open when it fails.
            with _open(source) as file:
                return _decode(file, at_least, background, max_pixels)
        if isinstance(source, bytes | bytearray | memoryview):
            return _decode(io.BytesIO(source), at_least, background, max_pixels)
        if hasattr(source, "read"):
            if hasattr(source, "seekable") and not source.seekable():  # reading a pipe may block forever
                raise ImageUnreadableError("is a pipe", expected="a file")
            return _decode(source, at_least, background, max_pixels)
    raise InvalidArgumentError(
        f"{name or 'the image'} is of type {type(source).__name__}",
        expected="a path, the bytes of an image file, an open file, or an image of Pillow",
    )


def format_of(content: bytes, *, at_least: int = 0, max_pixels: int = MAX_PIXELS) -> str:
    """The name of the format of an image file, such as JPEG. Only its header is read, and refused as `decode` would.

    Raises:
        ImageUnreadableError, ImageTooLargeError: see `decode`.
    """
    with (
        _named_errors("the image", max_pixels),
        io.BytesIO(content) as file,
        open_image(file, at_least=at_least, max_pixels=max_pixels) as image,
    ):
        return str(image.format).upper()


@contextlib.contextmanager
def _named_errors(name: str, max_pixels: int) -> Iterator[None]:
    """Translate whatever Pillow raises into errors with the name of the image."""
    try:
        yield
    except ImageError as exc:
        joined = " " if exc.given.startswith("is ") else ": "
        raise type(exc)(f"{name}{joined}{exc.given}", expected=exc.expected, run=exc.run) from exc
    except Image.DecompressionBombError as exc:
        raise ImageTooLargeError(f"{name}: {exc}", expected=f"at most {max_pixels:,} pixels") from exc
    except Exception as exc:  # Pillow's plugins raise errors of many types: struct.error, KeyError, AssertionError, ...
        reason = shortened(reason_of(exc), LONGEST_NAME)
        if not isinstance(exc, OSError | ValueError | MemoryError):  # "index out of range" says nothing to a user
            reason = f"damaged or truncated ({reason})"
        raise ImageUnreadableError(f"{name} cannot be read: {reason}") from exc


def name_in_errors(path: object) -> str:
    """The path or URL of an image as errors show it: at most 200 characters."""
    return shortened(with_slashes(str(path)), LONGEST_NAME)


def upright_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """An image of any mode as RGB, turned upright by its EXIF data, with transparent parts on `background`."""
    rgb = _to_rgb(image, background)
    turn = UPRIGHT.get(orientation(image))
    if turn is None:
        return rgb
    upright = rgb.transpose(turn)
    upright.info.clear()  # so that nobody turns it once more
    return upright


def to_pixels(image: Image.Image, spec: ImageSpec) -> Array:
    """Fit an RGB image into the bundle's square.

    Returns:
        uint8 array of shape (3, size, size), RGB.
    """
    size, resampling = spec.size, RESAMPLING[spec.resampling]
    square: Image.Image | Array
    if spec.fit == "stretch":
        square = image.resize((size, size), resampling)
    elif spec.fit == "crop":
        square = ImageOps.fit(image, (size, size), resampling)
    elif spec.fit == "edge-crop":
        square = _edge_crop(image, spec)
    elif spec.fit == "edge-corner":
        square = Image.new("RGB", (size, size))
        square.paste(image.resize(edge_size(image.size, spec), resampling))
    elif spec.fit == "patches":
        square = _patches(image, spec)
    else:
        square = _letterbox(image, size, resampling, spec.background)
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def normalise(pixels: Array, spec: ImageSpec) -> Array:
    """Normalise pixels: uint8 of shape (n, 3, size, size) becomes float32, `(pixel / 255 - mean) / std`."""
    mean, std = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (spec.mean, spec.std))
    result: Array = (pixels.astype(np.float32) / 255.0 - mean) / std
    return result


def edge_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Width and height after resizing for `edge-crop` and `edge-corner`, as transformers' CLIP and ViLT processors compute them."""
    short, long = min(size), max(size)
    if spec.divisor == 1:
        edges = (spec.edge, int(spec.edge * long / short))
    else:
        resized = [float(spec.edge), spec.edge / short * long]
        if (longest := int(LONGEST_OF_EDGE * spec.edge)) < resized[1]:
            scale = longest / resized[1]  # rounded before the multiplication, as in transformers
            resized = [scale * edge for edge in resized]
        shorter, longer = (max(spec.divisor, int(edge + 0.5) // spec.divisor * spec.divisor) for edge in resized)
        edges = (shorter, longer)
    return edges if size[0] <= size[1] else (edges[1], edges[0])


def patch_grid(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Rows and columns of the patches of an image for `patches`: the scale is found by halving, as transformers' NaFlex does it."""
    width, height = size
    most = (spec.size // spec.divisor) ** 2
    low, high = _SCALE_STEP / 10, 100.0
    while high - low >= _SCALE_STEP:
        middle = (low + high) / 2
        rows, columns = (max(1, math.ceil(edge * middle / spec.divisor)) for edge in (height, width))
        low, high = (middle, high) if rows * columns <= most else (low, middle)
    return max(1, math.ceil(height * low / spec.divisor)), max(1, math.ceil(width * low / spec.divisor))


def patch_mask(size: tuple[int, int], spec: ImageSpec) -> Array:
    """Mask of an image's patches: uint8 of the shape `spec.mask_shape`; see `ImageSpec.fit`.

    Args:
        size: width and height of the image.
        spec: the preprocessing of the image, of the fit `edge-corner` or `patches`.
    """
    mask = np.zeros(spec.mask_shape or (0, 0), dtype=np.uint8)
    if spec.fit == "patches":
        for axis, count in enumerate(patch_grid(size, spec)):
            mask[axis, :count] = 1
    else:
        width, height = (edge * len(mask) // spec.size for edge in edge_size(size, spec))
        mask[:height, :width] = 1
    return mask


def _patches(image: Image.Image, spec: ImageSpec) -> Array:
    """The square with the image's patches, row by row, (size, size, 3). The rest of the square is black."""
    (rows, columns), edge, side = patch_grid(image.size, spec), spec.divisor, spec.size // spec.divisor
    pixels = np.asarray(image.resize((columns * edge, rows * edge), RESAMPLING[spec.resampling]))
    patches = np.zeros((side * side, edge, edge, 3), dtype=np.uint8)
    patches[: rows * columns] = pixels.reshape(rows, edge, columns, edge, 3).swapaxes(1, 2).reshape(-1, edge, edge, 3)
    square: Array = patches.reshape(side, side, edge, edge, 3).swapaxes(1, 2).reshape(spec.size, spec.size, 3)
    return square


def _edge_crop(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """The middle square of the resized image. Parts of the square outside the image are black."""
    resized, resampling = edge_size(image.size, spec), RESAMPLING[spec.resampling]
    if max(resized) > LONGEST_OF_CROP * spec.size:
        return _middle_of_strip(image, resized, spec)
    left, top = ((edge - spec.size) // 2 for edge in resized)
    return image.resize(resized, resampling).crop((left, top, left + spec.size, top + spec.size))


def _middle_of_strip(image: Image.Image, resized: tuple[int, int], spec: ImageSpec) -> Image.Image:
    """The middle square, as in `_edge_crop`, but only the middle of the image is resized.

    Resizing all of a file of 1 x 100,000 pixels would take 15 GB. Some pixels differ from those of `_edge_crop`: Pillow resizes in
    two passes and rounds between them, and the order of the passes depends on the size of the result.
    """
    size = tuple(min(edge, spec.size) for edge in resized)
    box = [0.0, 0.0, 0.0, 0.0]
    for axis, (edge, kept, whole) in enumerate(zip(resized, size, image.size, strict=True)):
        start = (edge - kept) // 2
        box[axis], box[axis + 2] = start * whole / edge, (start + kept) * whole / edge
    middle = image.resize((size[0], size[1]), RESAMPLING[spec.resampling], (box[0], box[1], box[2], box[3]))
    left, top = ((edge - spec.size) // 2 for edge in size)
    return middle.crop((left, top, left + spec.size, top + spec.size))


def _letterbox(image: Image.Image, size: int, resampling: Image.Resampling, colour: tuple[int, int, int]) -> Image.Image:
    # ImageOps.pad rounds the short edge of a 1 x 10,000 image to 0 and returns an empty square.
    longest = max(image.size)
    width, height = (max(1, round(edge * size / longest)) for edge in image.size)
    square = Image.new("RGB", (size, size), colour)
    square.paste(image.resize((width, height), resampling), ((size - width) // 2, (size - height) // 2))
    return square


def _name_of(source: object) -> str:
    if not isinstance(source, str | os.PathLike):
        source = getattr(source, "name", None) or "the image"
    return name_in_errors(source) or "the image"


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    if not (text := os.fspath(path)):
        raise ImageUnreadableError("is an empty path", expected="the path of a file")
    try:
        if "://" in text and is_url(text):  # it names no file of this machine, whatever folders there are
            raise FileNotFoundError(text)
        mode = os.stat(path).st_mode  # noqa: PTH116 - a Path would turn https:// into https:/
    except (OSError, ValueError):
        if not is_url(text):
            raise
        if (file := local_path(text)) is not None:
            return _open(file)
        raise ImageUnreadableError(
            "is a URL, and URLs are not fetched", expected="the path of a file, or the bytes of the image that the URL gives"
        ) from None
    if not stat.S_ISREG(mode):  # opening a pipe would block forever
        raise ImageUnreadableError("is a folder" if stat.S_ISDIR(mode) else "is not a regular file")
    return Path(path).open("rb")


def _decode(file: IO[bytes], at_least: int, background: tuple[int, int, int], max_pixels: int) -> Image.Image:
    with load_image(file, at_least=at_least, max_pixels=max_pixels) as image:
        return upright_rgb(image, background)


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return _from_numbers(image).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return converted or image.convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, background)
        canvas.paste(rgba, mask=rgba)
        return canvas
    return image.convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips all values above 255 to white. In 16 bits, white is 65,535. 32-bit integers and floats have no
    # defined white: if all floats are within 0 to 1, white is 1; other values are stretched from their minimum to their maximum.
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values >> 8).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    return Image.fromarray(np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8))
