"""Opening image files: the decoder of each format, the limit on pixels, and the EXIF orientation.

Pillow's plugins are called directly and not through `Image.open`. The pixel limit of `Image.open` is global to the process and
prints warnings, and so does its EXIF reader. A library must not change process-wide settings, and a broken image must not print.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Iterator
from importlib.util import find_spec
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
    features,
)

from milvus_coop.config import PREFIX, Settings
from milvus_coop.errors import ImageTooLargeError, ImageUnreadableError

READS_AVIF = bool(features.check("avif"))
"""True if Pillow can read AVIF: its wheels can since version 11.3."""
READS_HEIC = find_spec("pillow_heif") is not None
"""True if pillow-heif is installed, which reads HEIC. Pillow cannot."""

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", *(["AVIF"] if READS_AVIF else []), *(["HEIC"] if READS_HEIC else []))
"""The supported formats. Pillow's other decoders are never used."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    | ({".avif", ".avifs"} if READS_AVIF else set())
    | ({".heic", ".heics", ".heif", ".heifs", ".hif"} if READS_HEIC else set())
)
"""The suffixes of files in the supported formats, in lower case."""

INSTALL_HEIC = "pip install 'milvus-coop[heif]'"
INSTALL_AVIF = "pip install --upgrade 'pillow>=11.3'"

MAX_PIXELS = Settings().max_pixels
"""Default maximum number of pixels of an image that is decoded at full size."""

DRAFT_FACTOR = 2.5
"""Factor by which a baseline JPEG may exceed the pixel limit if it is decoded at a fraction of its size: phones take 200 Mpixels.
It does not apply to progressive JPEGs, because libjpeg keeps all their coefficients, 6 bytes per pixel, at any fraction."""

HEADER_BYTES = 64
"""Number of bytes at the start of a file that are enough to see its format, and the size of a WebP."""

_EOI = b"\xff\xd9"
_TRIED_ENDS = 3
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_CONTAINER_BRANDS = (b"mif1", b"msf1", b"mif2")
"""Brands of files with images in any encoding; the compatible brands that follow say in which."""

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

    end = b""
    """Bytes that are read after the end of the file."""

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not needed, and Pillow warns when it reads it from broken EXIF data."""

    def load_read(self, read_bytes: int) -> bytes:
        """The next bytes of the file; after its end, those of `end`."""
        content: bytes = self.fp.read(read_bytes) if self.fp else b""
        if not content:
            content, self.end = self.end, b""
        return content


def load_image(file: IO[bytes], *, at_least: int = 0, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Open an image file and decode its first frame; for the arguments and errors, see `open_image`.

    A JPEG file that lacks nothing but its end marker is complete: every viewer shows it. libjpeg fills missing pixels with grey and
    says nothing, so such a file is decoded with several random ends. It lacks pixels if the results differ.

    Raises:
        OSError: the file is truncated. Pillow's plugins also raise errors of many other types for damaged files.
    """
    image = open_image(file, at_least=at_least, max_pixels=max_pixels)
    try:
        image.load()
    except OSError:
        file.seek(0)
        content = file.read() if isinstance(image, _Jpeg) else b""
        if not _has_all_scans(content):
            raise
        first = _load_with_end(content, _EOI, at_least, max_pixels)
        pixels = first.tobytes()
        if any(_load_with_end(content, end, at_least, max_pixels).tobytes() != pixels for end in _random_ends(content)):
            raise
        return first
    return image


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
        given, run = ("not an image", "") if header else ("the file is empty", "")
        if brand := _brand_of(header):
            given, run = f"no decoder for {brand} is installed", INSTALL_AVIF if brand == "AVIF" else INSTALL_HEIC
        raise ImageUnreadableError(given, expected=f"one of {', '.join(FORMATS)}", run=run)
    if plugin is WebPImagePlugin.WebPImageFile:
        check_size(*_webp_size(header), max_pixels)  # libwebp allocates two canvases as soon as it opens a file
    image = plugin(file)
    width, height = image.size
    factor = 1.0
    if at_least and isinstance(image, _Jpeg) and image.draft("RGB", (at_least, at_least)) and not image.info.get("progressive"):
        factor = DRAFT_FACTOR if image.size != (width, height) else 1.0
    check_size(width, height, max_pixels, factor)
    return image


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 if it has none or its EXIF data is broken.

    Pillow turns TIFFs upright when it loads them.
    """
    exif = image.info.get("exif", b"")
    if not isinstance(exif, bytes):
        return 1
    tiff = exif
    while tiff.startswith(b"Exif\0\0"):  # some programs write the prefix twice
        tiff = tiff[6:]
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
    brand = _brand_of(header)
    if brand == "AVIF" and READS_AVIF:
        from PIL.AvifImagePlugin import AvifImageFile

        return AvifImageFile
    if brand == "HEIC" and READS_HEIC:
        from pillow_heif import HeifImageFile  # not registered with Pillow: that would change `Image.open` for the whole process

        return HeifImageFile
    return None


def _brand_of(header: bytes) -> str:
    """AVIF or HEIC, if that is what the first box of the file says (ISO/IEC 14496-12, section 4.3); else ''."""
    if header[4:8] != b"ftyp":
        return ""
    n_bytes = int.from_bytes(header[:4], "big")
    major, compatible = header[8:12], [header[i : i + 4] for i in range(16, min(n_bytes, len(header)), 4)]
    for brand in (major, *(compatible if major in _CONTAINER_BRANDS else [])):
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand in _HEIC_BRANDS:
            return "HEIC"
    return ""


def _random_ends(content: bytes) -> Iterator[bytes]:
    """Ends for a JPEG that stops early: random data, also for the segments that would begin with the next restart markers.

    libjpeg skips all of it if the file has the data of all its pixels.
    """
    markers = _RESTART.findall(content)
    following = markers[-1][0] - 0xD0 + 1 if markers else 0
    stuffing = b"\0" if content.endswith(b"\xff") else b""  # after it, the byte would be read as a marker
    for number in range(_TRIED_ENDS):
        data = hashlib.shake_256(bytes([number])).digest(64).replace(b"\xff", b"\xfe")
        restarts = (bytes([0xFF, 0xD0 + (following + i) % 8]) for i in range(4))
        yield stuffing + data + b"".join(marker + data for marker in restarts) + _EOI


def _load_with_end(content: bytes, end: bytes, at_least: int, max_pixels: int) -> ImageFile.ImageFile:
    image = open_image(io.BytesIO(content), at_least=at_least, max_pixels=max_pixels)
    if isinstance(image, _Jpeg):
        image.end = end
    image.load()
    return image


def _has_all_scans(content: bytes) -> bool:
    """True if the scans of a JPEG give all coefficients of all components in full precision (ITU-T T.81, section G.1).

    A progressive JPEG that ends between two scans has all its pixels, but they are coarse.
    """
    wanted: set[int] = set()
    given: dict[int, set[int]] = {}
    at = 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 4 <= len(content):
        marker, body = content[at + 1], content[at + 4 : at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")]
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD9:  # a byte of the entropy-coded data, or a marker without a body
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xC0, 0xC1, 0xC2):
            wanted = {*body[6 : 6 + 3 * body[5] : 3]} if len(body) > 5 else set()
        elif marker == 0xDA and body:
            n = body[0]
            first, last, precision = (*body[1 + 2 * n :], 0, 0, 1)[:3]
            for component in body[1 : 1 + 2 * n : 2]:
                if not precision & 0xF:
                    given.setdefault(component, set()).update(range(first, last + 1))
        at += 2 + len(body)
    return bool(wanted) and all(len(given.get(component, ())) == 64 for component in wanted)


def _webp_size(header: bytes) -> tuple[int, int]:
    # RFC 9649, sections 2.5 to 2.7: the first chunk has one of three kinds, and each kind writes width and height differently.
    kind, body = header[12:16], header[20:]
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def check_size(width: int, height: int, max_pixels: int, factor: float = 1.0) -> None:
    """Refuse an image with more than `factor` times `max_pixels` pixels, or with none.

    Raises:
        ImageTooLargeError, ImageUnreadableError: it is refused.
    """
    if width * height > max_pixels * factor:
        limit = f"at most {max_pixels:,} ({PREFIX}MAX_PIXELS)" + (
            f", and {factor:g} times as many in such a JPEG" if factor > 1 else ""
        )
        raise ImageTooLargeError(f"{width:,} x {height:,} pixels are too many", expected=limit)
    if not width or not height:
        raise ImageUnreadableError("it has no pixels")
