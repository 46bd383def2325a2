"""Decoding, against a naive decode written here; and everything a hostile or broken file can try."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import ImageTooLargeError, ImageUnreadableError, InvalidArgumentError
from milvus_coop.models.preprocess.images import decode, to_pixels

SPEC = ImageSpec(size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """Different in every corner and smooth, so that lossy formats stay close and no turn goes unnoticed."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / max(1, width - 1), 255 * y / max(1, height - 1), 255 * (x > width / 2) * (y > height / 2)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def naive(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def distance(a: Image.Image, b: Image.Image) -> float:
    assert a.size == b.size
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(f"{order}HIH", 42, 8, 1) + entry + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_decodes_like_pillow(format_: str, tmp_path: Path) -> None:
    content = saved(scene(), format_)
    path = tmp_path / "picture.dat"  # the content tells the format, not the name
    path.write_bytes(content)
    for source in (content, path, io.BytesIO(content)):
        image = decode(source)
        assert image.mode == "RGB"
        assert distance(image, naive(content)) == 0


@pytest.mark.parametrize(
    ("mode", "format_"),
    [("1", "PNG"), ("L", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("P", "GIF"), ("YCbCr", "JPEG"), ("CMYK", "TIFF"), ("P", "BMP")],
)
def test_modes_without_transparency_decode_like_pillow(mode: str, format_: str) -> None:
    content = saved(scene().convert(mode), format_)
    assert distance(decode(content), naive(content)) == 0


def test_adobe_cmyk_jpeg_is_not_inverted() -> None:
    content = saved(scene().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content
    assert distance(decode(content), scene()) < 4  # quality 95, 4:2:0 chroma


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
@pytest.mark.parametrize(("mode", "format_"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")])
def test_alpha_is_laid_on_the_background(mode: str, format_: str, background: tuple[int, int, int]) -> None:
    image = Image.new("RGBA", (4, 1), (90, 90, 90, 255))
    for x, alpha in enumerate((0, 128, 255, 255)):
        image.putpixel((x, 0), (90, 90, 90, alpha))
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    pixels = np.asarray(decode(saved(image.convert(mode), format_, **options), background=background)).astype(int)
    expected = [[round(90 * a / 255 + b * (1 - a / 255)) for b in background] for a in (0, 128, 255, 255)]
    assert np.abs(pixels[0] - expected).max() <= 1


@pytest.mark.parametrize("format_", ["PNG", "GIF"])
def test_a_transparent_palette_colour_becomes_white(format_: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    result = decode(saved(image, format_, transparency=0))
    assert result.getpixel((0, 0)) == (255, 255, 255)
    assert result.getpixel((1, 0)) == (0, 0, 200)


def test_transparent_colour_of_rgb_png_becomes_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    result = decode(saved(image, "PNG", transparency=(1, 2, 3)))
    assert (result.getpixel((0, 0)), result.getpixel((1, 0))) == ((255, 255, 255), (4, 5, 6))


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bits_keep_their_greys(format_: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = np.asarray(decode(saved(Image.fromarray(ramp), format_)))
    assert np.abs(pixels[..., 0].astype(int) - ramp.astype(int) * 255 // 65535).max() <= 1
    assert decode(saved(Image.fromarray(np.full((2, 2), 200, np.uint16)), format_)).getpixel((0, 0)) == (0, 0, 0)


def test_32_bit_integers_and_floats_are_stretched() -> None:
    ints = np.linspace(-1000, 1_000_000, 256).astype(np.int32).reshape(16, 16)
    floats = np.linspace(-5, 700, 256).astype(np.float32).reshape(16, 16)
    for values in (ints, floats):
        pixels = np.asarray(decode(saved(Image.fromarray(values), "TIFF")))[..., 0].reshape(-1)
        assert (pixels[0], pixels[-1]) == (0, 255)
        assert (np.diff(pixels.astype(int)) >= 0).all()
    unit = np.array([[0.0, 0.25], [0.5, np.nan]], dtype=np.float32)
    assert np.asarray(decode(saved(Image.fromarray(unit), "TIFF")))[..., 0].tolist() == [[0, 64], [128, 0]]


def test_lab_tiff_keeps_its_colours() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(scene(), srgb, lab, outputMode="LAB")
    assert image is not None
    assert distance(decode(saved(image, "TIFF")), scene()) < 3  # 8-bit Lab is coarser than 8-bit RGB


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation(format_: str, orientation: int, order: str) -> None:
    options: dict[str, Any] = {"lossless": True} if format_ == "WEBP" else {"quality": 95} if format_ == "JPEG" else {}
    if format_ == "TIFF":
        options["tiffinfo"] = {0x0112: orientation}
    else:
        options["exif"] = exif(orientation, order)
    content = saved(scene(), format_, **options)
    assert distance(decode(content), naive(content)) == 0
    upright = decode(content)
    assert upright.size == ((64, 96) if orientation >= 5 else (96, 64))
    assert distance(decode(upright), upright) == 0  # an image that is upright is not turned again


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_an_exif_prefix_that_stands_twice_is_read(format_: str) -> None:
    twice = saved(scene(), format_, exif=b"Exif\0\0" + exif(6))
    assert distance(decode(twice), naive(saved(scene(), format_, exif=exif(6)))) == 0


def test_orientation_of_a_sample_picture() -> None:
    path = Path(__file__).parents[2] / "examples" / "images" / "two_dogs.jpg"
    image = decode(path)
    assert image.height > image.width


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II",
        b"Exif\0\0XX*\0\x08\0\0\0\x01\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        exif(6)[:-8],
        exif(9),
        exif(0),
        b"Exif\0\0" + bytes(range(256)) * 4,
    ],
)
def test_broken_exif_changes_nothing(broken: bytes) -> None:
    content = saved(scene(), "JPEG", exif=broken or b"Exif\0\0")
    assert distance(decode(content), naive(saved(scene(), "JPEG"))) == 0


def test_odd_colour_profile_and_corrupt_multi_picture_header_are_ignored() -> None:
    plain = saved(scene(), "JPEG")
    assert distance(decode(saved(scene(), "JPEG", icc_profile=b"no profile" * 9)), naive(plain)) == 0
    body = b"MPF\0" + b"II*\0\xff\xff\xff\xff"
    assert distance(decode(plain[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + plain[2:]), naive(plain)) == 0


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several(format_: str) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if format_ == "WEBP" else {}
    content = saved(first, format_, save_all=True, append_images=[second], **options)
    assert decode(content).getpixel((4, 4)) == (255, 0, 0)


def test_large_jpeg_is_decoded_smaller_and_looks_the_same() -> None:
    content = saved(scene(1600, 1200), "JPEG")
    small = decode(content, at_least=128)
    assert small.size == (200, 150)
    full = decode(content)
    assert full.size == (1600, 1200)
    difference = to_pixels(small, SPEC).astype(int) - to_pixels(full, SPEC)
    assert np.abs(difference).mean() < 1.5  # of 255: two ways to average the same pixels


def test_at_least_never_shrinks_below_it_nor_touches_other_formats() -> None:
    assert decode(saved(scene(1600, 100), "JPEG"), at_least=90).size == (1600, 100)
    assert decode(saved(scene(1600, 1200), "PNG"), at_least=100).size == (1600, 1200)
    turned = decode(saved(scene(1600, 1200), "JPEG", exif=exif(6)), at_least=128)
    assert turned.size == (150, 200)


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 5), (64, 64), (500, 20)])
def test_every_shape_fits_into_the_square(size: tuple[int, int], fit: Any) -> None:
    spec = ImageSpec(size=64, mean=SPEC.mean, std=SPEC.std, fit=fit)
    image = decode(saved(Image.new("RGB", size, (200, 0, 0)), "PNG"))
    pixels = to_pixels(image, spec)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert (pixels[:, 31, 31] == [200, 0, 0]).all()  # the picture is there, however thin


def test_letterbox_is_pillows_where_that_works() -> None:
    for size in ((96, 64), (63, 97), (640, 31)):
        naive_square = ImageOps.pad(scene(*size), (64, 64), Image.Resampling.BICUBIC, color=SPEC.background)
        ours = to_pixels(scene(*size), SPEC).transpose(1, 2, 0)
        assert np.abs(ours.astype(int) - np.asarray(naive_square)).mean() < 2  # they differ by how half a pixel is rounded


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9)) + chunk(b"IEND", b"")


def jpeg_with_size(width: int, height: int, **options: Any) -> bytes:
    content = bytearray(saved(scene(), "JPEG", **options))
    marker = b"\xff\xc2" if options.get("progressive") else b"\xff\xc0"
    at = content.index(marker) + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def webp_with_size(width: int, height: int, kind: str) -> bytes:
    image = scene().convert("RGBA")
    image.putalpha(100)
    content = bytearray(saved(image if kind == "VP8X" else scene(), "WEBP", lossless=kind == "VP8L"))
    assert content[12:16].decode().strip() == kind
    if kind == "VP8X":
        content[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == "VP8L":
        bits = int.from_bytes(content[21:25], "little") & ~0xFFFFFFF | (width - 1) | (height - 1) << 14
        content[21:25] = bits.to_bytes(4, "little")
    else:
        content[26:30] = struct.pack("<HH", width, height)
    return bytes(content)


BOMBS = {
    "png": lambda: png_header(60_000, 60_000),
    "jpeg": lambda: jpeg_with_size(65_000, 65_000),
    "progressive jpeg": lambda: jpeg_with_size(14_000, 14_000, progressive=True),
    "gif": lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + saved(scene(), "GIF")[10:],
    "bmp": lambda: saved(scene(), "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + saved(scene(), "BMP")[26:],
    "webp": lambda: webp_with_size(16_383, 16_383, "VP8"),
    "lossless webp": lambda: webp_with_size(16_383, 16_383, "VP8L"),
    "extended webp": lambda: webp_with_size(1 << 24, 200, "VP8X"),
}


@pytest.mark.parametrize("at_least", [0, 64])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_from_the_header(name: str, at_least: int) -> None:
    content = BOMBS[name]()
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLargeError, match="at most"):
            decode(content, at_least=at_least)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_phones_200_megapixels_pass_where_they_are_shrunk() -> None:
    content = jpeg_with_size(16_320, 12_240)[:-2]
    with pytest.raises(ImageUnreadableError, match="truncated"):  # the size passed; the file has less than it says
        decode(content, at_least=224)
    with pytest.raises(ImageTooLargeError):
        decode(content)


def test_the_limit_can_be_set() -> None:
    content = saved(scene(100, 100), "PNG")
    assert decode(content, max_pixels=10_000).size == (100, 100)
    for source in (content, Image.open(io.BytesIO(content))):
        with pytest.raises(ImageTooLargeError, match=r"100 x 100 .*at most 9,999 \(MILVUS_COOP_MAX_PIXELS\)"):
            decode(source, max_pixels=9_999)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused(format_: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8))
    content = saved(noise, format_, **({"progressive": True} if format_ == "JPEG" else {}))
    for keep in (0.02, 0.3, 0.5, 0.9):
        path = tmp_path / f"{keep}"
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(ImageUnreadableError):
            decode(path)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8))
JPEG_KINDS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"quality": 95, "subsampling": 0},
    {"restart_marker_blocks": 4},
    {"exif": exif(6), "optimize": True},
]


@pytest.mark.parametrize("at_least", [0, 32])
@pytest.mark.parametrize("options", JPEG_KINDS, ids="+".join)
@pytest.mark.parametrize("picture", [scene(), NOISE, scene(640, 480).convert("L")], ids=["smooth", "noise", "grey"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_complete(picture: Image.Image, options: dict[str, Any], at_least: int) -> None:
    content = saved(picture, "JPEG", **options)
    whole = decode(content, at_least=at_least)
    for cut in (1, 2):
        assert distance(decode(content[:-cut], at_least=at_least), whole) == 0


@pytest.mark.parametrize("at_least", [0, 32])
@pytest.mark.parametrize("options", JPEG_KINDS, ids="+".join)
@pytest.mark.parametrize("picture", [scene(), NOISE, scene(640, 480)], ids=["smooth", "noise", "large"])
def test_a_jpeg_that_lacks_pixels_is_refused(picture: Image.Image, options: dict[str, Any], at_least: int) -> None:
    content = saved(picture, "JPEG", **options)
    whole = np.asarray(decode(content, at_least=at_least)).astype(int)
    for cut in [*range(3, 30), *np.linspace(30, len(content) * 0.6, 40).astype(int)]:
        try:
            decoded = decode(content[: -int(cut)], at_least=at_least)
        except ImageUnreadableError as exc:
            reason = str(exc)
            assert "truncated" in reason.lower() or "cannot load this image" in reason
        else:  # the last bytes may say nothing of these pixels, which an eighth of the size shows most often
            assert np.abs(np.asarray(decoded) - whole).max() <= 2


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_buffer_is_the_content_of_a_file(kind: Any) -> None:
    content = saved(scene(), "PNG")
    assert distance(decode(kind(content)), naive(content)) == 0
    with pytest.raises(ImageUnreadableError, match=r"^the image: not an image; expected: one of") as caught:
        decode(kind(b"x" * 100_000))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "address",
    ["https://example.com/a.jpg", Path("https://example.com/a.jpg"), "data:image/png;base64," + "A" * 5000, "s3://b/a.png"],
)
def test_an_address_is_no_file(address: Any) -> None:
    with pytest.raises(ImageUnreadableError, match=r"is a URL, and URLs are not fetched; expected: the path") as caught:
        decode(address)
    assert str(caught.value).startswith(str(address).replace(":/e", "://e")[:90])
    assert len(str(caught.value)) < 400


def test_a_file_uri_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(saved(scene(), "PNG"))
    assert decode(path.as_uri()).size == decode(path).size
    with pytest.raises(ImageUnreadableError, match=r"^file:///none\.png cannot be read: No such file or directory$"):
        decode("file:///none.png")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    for form in (path, str(path), path.as_uri()):
        with pytest.raises(ImageUnreadableError, match="is not a regular file"):
            decode(form)
    with os.fdopen(os.open(path, os.O_RDWR), "rb", buffering=0) as file, pytest.raises(ImageUnreadableError, match="is a pipe"):
        decode(file)


@pytest.mark.parametrize("source", ["x" * 5000, "a\0b", Path("y" * 5000)])
def test_paths_that_no_system_has(source: Any) -> None:
    with pytest.raises(ImageUnreadableError, match="cannot be read") as caught:
        decode(source)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("source", [5, None, ["a.jpg"], np.zeros((2, 2, 3)), {"image": 1}])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"the image is of type .*; expected: a path"):
        decode(source)


def test_images_of_pillow_that_cannot_be_used() -> None:
    with pytest.raises(ImageUnreadableError, match="truncated"):
        decode(Image.open(io.BytesIO(saved(NOISE, "JPEG")[:-500])))
    with pytest.raises(ImageUnreadableError, match="it has no pixels"):
        decode(Image.new("RGB", (0, 0)))


def heic(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, **options)
    return file.getvalue()


def test_heic_is_read_where_pillow_heif_is_installed() -> None:
    content = heic(scene(), quality=95)
    assert distance(decode(content), scene()) < 3
    turned = decode(heic(scene(), quality=95, exif=exif(6)))
    assert turned.size == (64, 96)
    with pytest.raises(ImageTooLargeError):
        decode(content, max_pixels=96 * 64 - 1)
    assert "HEIF" not in Image.OPEN  # nothing was registered with Pillow


def test_without_a_decoder_the_package_is_named() -> None:
    program = """
import sys
sys.modules["pillow_heif"] = None
from importlib import util
found = util.find_spec
util.find_spec = lambda name, *rest: None if name == "pillow_heif" else found(name, *rest)
from milvus_coop.models.preprocess.images import FORMATS, decode
print(FORMATS)
try:
    decode(bytes.fromhex(sys.argv[1]))
except ValueError as exc:
    print(exc)
"""
    arguments = [sys.executable, "-c", program, heic(scene())[:64].hex()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "HEIC" not in done.stdout.splitlines()[0]
    assert "no decoder for HEIC is installed; expected: one of JPEG" in done.stdout
    assert "try: pip install 'milvus-coop[heif]'" in done.stdout


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"hello",
        b"BM",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF1234WEBP",
        b"II*\0",
        b"<svg xmlns='x'/>",
        b"%PDF-1.7",
        b"8BPS",
    ],
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(ImageUnreadableError):
        decode(content)


def test_messages_name_the_file_and_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("hello")
    with pytest.raises(ImageUnreadableError, match=r"notes\.jpg: not an image; expected: one of JPEG"):
        decode(path)
    path.write_bytes(b"")
    with pytest.raises(ImageUnreadableError, match=r"notes\.jpg: the file is empty"):
        decode(path)
    with pytest.raises(ImageUnreadableError, match=r"missing\.jpg cannot be read: .*No such file"):
        decode(tmp_path / "missing.jpg")
    with pytest.raises(ImageUnreadableError, match=f"{tmp_path} is a folder"):
        decode(tmp_path)


def test_random_damage_never_escapes_as_another_error() -> None:
    random = np.random.default_rng(7)
    for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        content = saved(scene(), format_)
        for _ in range(60):
            damaged = bytearray(content)
            for at in random.integers(0, min(len(content), 300), 6):
                damaged[at] = random.integers(0, 256)
            with contextlib.suppress(ImageUnreadableError, ImageTooLargeError):
                decode(bytes(damaged), max_pixels=1_000_000)


def test_threads_decode_alike_and_pillows_globals_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a user's limit for other code neither warns here nor is changed
    contents = [saved(scene(200 + i, 100), "JPEG", exif=exif(1 + i % 8)) for i in range(24)]
    alone = [decode(c) for c in contents]
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=barrier.wait) as pool:
        together = list(pool.map(decode, contents))
    assert all(distance(a, b) == 0 for a, b in zip(alone, together, strict=True))
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_callers_file_stays_open() -> None:
    file = io.BytesIO(saved(scene(), "JPEG"))
    decode(file)
    assert not file.closed
