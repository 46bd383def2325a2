"""Pixels without transformers against the processors of transformers, picture by picture, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image, ImageOps

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.convert.preprocessing import image_spec_of
from milvus_coop.errors import ConvertError
from milvus_coop.preprocess.images import decode, normalise, patch_mask, to_pixels
from milvus_coop.types import Array

EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples" / "images").glob("*.jpg"))[:6]
SHAPES = [(1, 500), (37, 1000), (1000, 37), (48, 48), (20, 30), (225, 224), (641, 480), (333, 500)]
MODES = ["RGB", "L", "P", "CMYK", "1"]
CLOSE = 1e-6

BLIP: Any = transformers.BlipImageProcessorPil
CLIP: Any = transformers.CLIPImageProcessorPil
SIGLIP: Any = transformers.SiglipImageProcessorPil
VILT: Any = transformers.ViltImageProcessorPil
BRIDGETOWER: Any = transformers.BridgeTowerImageProcessorPil
PROCESSORS: dict[str, Any] = {
    "blip": BLIP(),
    "blip at 96": BLIP(size={"height": 96, "width": 96}, resample=2),
    "clip": CLIP(),
    "clip, crop of 64 from 80": CLIP(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}),
    "siglip": SIGLIP(),
    "siglip without normalising": SIGLIP(size={"height": 64, "width": 64}, do_normalize=False),
    "vilt": VILT(),
    "vilt at 64": VILT(size={"shortest_edge": 64}),
    "bridgetower": BRIDGETOWER(),
    "bridgetower, crop of 64 from 96": BRIDGETOWER(size={"shortest_edge": 96}, crop_size={"shortest_edge": 64}),
}
IMPOSSIBLE = {(1, 500), (37, 1000), (1000, 37)}
"""ViLT's and BridgeTower's processors round the shorter edge of such pictures to 0 and fail; ours make one patch of it."""


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A picture with edges and noise everywhere, so that a shift by a pixel shows."""
    rng = np.random.default_rng(sum(size))
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return picture if mode == "RGB" else picture.convert(mode)


def theirs(processor: Any, picture: Image.Image) -> dict[str, Array]:
    made = processor(picture, return_tensors="np")
    return {name: np.asarray(value)[0] for name, value in made.items()}


def compare(processor: Any, picture: Image.Image, reference: Image.Image) -> None:
    spec = image_spec_of(processor, "it")
    wanted = theirs(processor, reference)
    ours = normalise(to_pixels(picture, spec)[None], spec)[0]
    if spec.fit == "edge-corner":
        height, width = wanted["pixel_values"].shape[1:]
        mask = patch_mask(picture.size, spec, spec.size // spec.divisor)
        assert mask[: height // spec.divisor, : width // spec.divisor].all()
        assert mask.sum() == height * width // spec.divisor**2
        assert wanted["pixel_mask"].all()
        ours = ours[:, :height, :width]
    assert ours.shape == wanted["pixel_values"].shape
    assert np.abs(ours - wanted["pixel_values"]).max() < CLOSE


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_photographs(name: str, path: Path) -> None:
    compare(PROCESSORS[name], decode(path), Image.open(path).convert("RGB"))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_odd_shapes(name: str, size: tuple[int, int]) -> None:
    if size in IMPOSSIBLE and ("vilt" in name or "bridgetower" in name):
        spec = image_spec_of(PROCESSORS[name], "it")
        assert to_pixels(noise(size), spec).shape == (3, spec.size, spec.size)
        return
    compare(PROCESSORS[name], noise(size), noise(size))


@pytest.mark.parametrize("name", ["blip", "clip", "vilt"])
@pytest.mark.parametrize("mode", MODES)
def test_modes(name: str, mode: str, tmp_path: Path) -> None:
    """Through a file, as transformers' `load_image` reads it."""
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    noise((120, 90), mode).save(path)
    compare(PROCESSORS[name], decode(path), transformers.image_utils.load_image(str(path)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation: int, tmp_path: Path) -> None:
    picture = noise((120, 90))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "turned.jpg", exif=exif)
    compare(PROCESSORS["clip"], decode(tmp_path / "turned.jpg"), transformers.image_utils.load_image(str(tmp_path / "turned.jpg")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_white_here_and_dropped_there(mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (64, 64), (200, 30, 30, 0))
    picture.paste((10, 20, 200, 255), (16, 16, 48, 48))
    picture.convert(mode).save(tmp_path / "picture.png")
    ours = decode(tmp_path / "picture.png")
    compare(PROCESSORS["blip"], ours, ours)
    assert ours.getpixel((0, 0)) == (255, 255, 255)
    assert transformers.image_utils.load_image(str(tmp_path / "picture.png")).getpixel((0, 0)) != (255, 255, 255)


def test_sixteen_bits_are_scaled_here_and_clipped_there(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64), 30_000, dtype=np.uint16)).save(tmp_path / "picture.png")
    ours = decode(tmp_path / "picture.png")
    compare(PROCESSORS["blip"], ours, ours)
    assert ours.getpixel((0, 0)) == (117, 117, 117)
    assert transformers.image_utils.load_image(str(tmp_path / "picture.png")).getpixel((0, 0)) == (255, 255, 255)


def test_large_photographs_are_decoded_in_full(tmp_path: Path) -> None:
    """A JPEG decoded at a quarter of its size is another picture."""
    path = tmp_path / "large.jpg"
    ImageOps.scale(Image.open(EXAMPLES[0]).convert("RGB"), 4).save(path, quality=95)
    spec = image_spec_of(PROCESSORS["blip at 96"], "it")
    assert spec.full_decode
    compare(PROCESSORS["blip at 96"], decode(path), Image.open(path))


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (BLIP(do_resize=False), "does not resize"),
        (BLIP(resample=1), "Pillow's filter 1"),
        (BLIP(rescale_factor=1.0), "0 to 1"),
        (BLIP(do_rescale=False), "0 to 1"),
        (BLIP(size={"height": 96, "width": 64}), "96, 'width': 64|squares"),
        (CLIP(do_center_crop=False), "pictures of any shape"),
        (CLIP(image_mean=[0.5], image_std=[0.5]), "normalises 1 channels"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(processor: Any, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        image_spec_of(processor, "it")


def test_a_processor_for_another_model() -> None:
    with pytest.raises(ConvertError, match="makes 384 px; expected: 224 px"):
        image_spec_of(PROCESSORS["blip"], "it", 224)


def test_bundles_remember() -> None:
    spec: ImageSpec = image_spec_of(PROCESSORS["vilt"], "it")
    assert (spec.size, spec.edge, spec.divisor, spec.fit) == (608, 384, 32, "edge-corner")
