"""Opening image files: the decoder of each format, the limit on pixels, and the EXIF orientation.

Pillow's plugins are called directly and not through `Image.open`. The pixel limit of `Image.open` is global to the process and
prints warnings, and so does its EXIF reader. A library must not change process-wide settings, and a broken image must not print.
"""

from __future__ import annotations

import struct
from typing import IO

from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from milvus_coop.errors import ImageTooLargeError, ImageUnreadableError

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
"""The supported formats. Pillow's other decoders are never used."""

MAX_PIXELS = 89_478_485
"""Maximum number of pixels of an image that is decoded at full size (268 MB as RGB; also the limit at which Pillow warns)."""

DRAFT_FACTOR = 2.5
"""Factor by which a baseline JPEG may exceed the pixel limit if it is decoded at a fraction of its size: phones take 200 Mpixels.
It does not apply to progressive JPEGs, because libjpeg keeps all their coefficients, 6 bytes per pixel, at any fraction."""

HEADER_BYTES = 32
"""Number of bytes at the start of a file that are enough to see its format, and the size of a WebP."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image upright, by EXIF orientation (Exif 2.32, section 4.6.4)."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG file. If the file holds several images (MPO), this is the first one."""

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not needed, and Pillow warns when it reads it from broken EXIF data."""


def open_image(file: IO[bytes], *, at_least: int = 0, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Read the header of an image file and prepare decoding. No memory for the pixels is allocated yet.

    Args:
        file: a file that is open for reading, at its start. It is not closed here, and must stay open until the image is loaded.
        at_least: large JPEGs will be decoded at 1/2, 1/4 or 1/8 of their size as long as both edges keep at least this length;
            0 means never.
        max_pixels: maximum of width * height.

    Raises:
        ImageUnreadableError: the file has no known format.
        ImageTooLargeError: the header claims more than `max_pixels` pixels.
    """
    header = file.read(HEADER_BYTES)
    file.seek(0)
    plugin = _plugin_of(header)
    if plugin is None:
        raise ImageUnreadableError("not an image" if header else "the file is empty", expected=f"one of {', '.join(FORMATS)}")
    if plugin is WebPImagePlugin.WebPImageFile:
        _check_size(*_webp_size(header), max_pixels)  # libwebp allocates two canvases as soon as it opens a file
    image = plugin(file)
    width, height = image.size
    if at_least and isinstance(image, _Jpeg) and image.draft("RGB", (at_least, at_least)) and not image.info.get("progressive"):
        max_pixels = max(max_pixels, int(max_pixels * DRAFT_FACTOR) if image.size != (width, height) else 0)
    _check_size(width, height, max_pixels)
    return image


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 if it has none or its EXIF data is broken.

    Pillow turns TIFFs upright when it loads them.
    """
    exif = image.info.get("exif", b"")
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for i in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * i)
            if tag == ExifTags.Base.Orientation:
                return int(value) if value in UPRIGHT else 1
    except struct.error:
        pass
    return 1


def _plugin_of(header: bytes) -> type[ImageFile.ImageFile] | None:
    if header.startswith(b"\xff\xd8\xff"):
        return _Jpeg
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if header.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    if header.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if header.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    return None


def _webp_size(header: bytes) -> tuple[int, int]:
    # RFC 9649, sections 2.5 to 2.7: the first chunk has one of three kinds, and each kind writes width and height differently.
    kind, body = header[12:16], header[20:]
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLargeError(f"{width:,} x {height:,} pixels are too many", expected=f"at most {max_pixels:,}")
