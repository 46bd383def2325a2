"""Our pixels against those of transformers' own image processors (the Pillow ones), file by file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BlipImageProcessorPil,
    BridgeTowerImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    LevitImageProcessorPil,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    ViltImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.image_utils import load_image

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import ConvertError
from milvus_coop.models.preprocess.images import decode, edge_size, normalise, patch_mask, to_pixels
from milvus_coop.offline.convert.preprocessing import image_spec_of, patches_of
from milvus_coop.types import Array

IMAGES = Path(__file__).parents[2] / "examples" / "images"
NAMES = ("alarm_clock.jpg", "castle.jpg", "giraffe.jpg", "great_wall.jpg", "eiffel_tower.jpg", "two_dogs.jpg")

VILT_224: dict[str, Any] = {"size": {"shortest_edge": 224}, "size_divisor": 16, "resample": 2}
PROCESSORS: dict[str, Any] = {
    "blip": BlipImageProcessorPil,
    "blip-224-bilinear": lambda: BlipImageProcessorPil(size={"height": 224, "width": 224}, resample=2),
    "clip": CLIPImageProcessorPil,
    "clip-crop": lambda: CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}),
    "clip-odd": lambda: CLIPImageProcessorPil(size={"shortest_edge": 97}, crop_size={"height": 90, "width": 90}, resample=2),
    "clip-beyond": lambda: CLIPImageProcessorPil(size={"shortest_edge": 97}, crop_size={"height": 120, "width": 120}),
    "siglip": SiglipImageProcessorPil,
    "siglip-384-bilinear": lambda: SiglipImageProcessorPil(size={"height": 384, "width": 384}, resample=2),
    "vit": ViTImageProcessorPil,
    "plain": lambda: ViTImageProcessorPil(do_normalize=False),
    "bridgetower": BridgeTowerImageProcessorPil,
    "bridgetower-crop": lambda: BridgeTowerImageProcessorPil(size={"shortest_edge": 300}, crop_size={"shortest_edge": 290}),
    "vilt": ViltImageProcessorPil,
    "vilt-224": lambda: ViltImageProcessorPil(**VILT_224),
}


@pytest.fixture(scope="module", params=PROCESSORS)
def case(request: pytest.FixtureRequest) -> tuple[Any, ImageSpec]:
    """A processor, and what we make of it."""
    processor = PROCESSORS[request.param]()
    return processor, image_spec_of(processor, request.param)


def scene(width: int, height: int) -> Image.Image:
    """Gradients and noise: no turn, crop or filter goes unnoticed."""
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([200 * x / max(1, width - 1), 200 * y / max(1, height - 1), 90 * ((x + y) % 2)], axis=-1)
    return Image.fromarray((planes + np.random.default_rng(0).integers(0, 55, planes.shape)).astype(np.uint8))


def too_thin(processor: Any, size: tuple[int, int]) -> bool:
    """transformers rounds the shorter edge of a strip down to nothing, and fails."""
    if not hasattr(processor, "size_divisor"):
        return False
    longest = 1333 / 800 * processor.size.shortest_edge
    return bool(longest * min(size) / max(size) < processor.size_divisor)


def agree(case: tuple[Any, ImageSpec], ours: Image.Image, theirs: Image.Image) -> None:
    """Their pixels are ours to the last of 255 steps, and to 1e-6 as floats: they multiply by 1 / 255, we divide by 255."""
    processor, spec = case
    pixels = to_pixels(ours, spec)
    assert pixels.shape == (3, spec.size, spec.size)
    reference = np.asarray(processor(theirs, do_rescale=False, do_normalize=False)["pixel_values"][0])
    height, width = reference.shape[1:]
    assert reference.dtype == np.uint8
    np.testing.assert_array_equal(pixels[:, :height, :width], reference)
    assert not pixels[:, height:].any()
    assert not pixels[:, :, width:].any()
    reference = np.asarray(processor(theirs)["pixel_values"][0])
    np.testing.assert_allclose(normalise(pixels[None], spec)[0, :, :height, :width], reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_photographs(case: tuple[Any, ImageSpec], name: str) -> None:
    agree(case, decode(IMAGES / name), load_image(str(IMAGES / name)))


@pytest.mark.parametrize("size", ["exact", "smaller", (1, 500), (500, 1), (37, 1000), (1000, 37), (2, 2), (401, 399), (800, 480)])
def test_odd_sizes(case: tuple[Any, ImageSpec], size: Any, tmp_path: Path) -> None:
    processor, spec = case
    if isinstance(size, str):
        size = (spec.size, spec.size) if size == "exact" else (spec.size // 3, spec.size // 2)
    scene(*size).save(path := tmp_path / "scene.png")
    if too_thin(processor, size):
        with pytest.raises(ValueError, match="Size must contain"):
            processor(load_image(str(path)))
        assert to_pixels(decode(path), spec).any()  # ours shows what there is
    else:
        agree(case, decode(path), load_image(str(path)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "CMYK-tiff"])
def test_modes(case: tuple[Any, ImageSpec], mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("scene.tiff" if "tiff" in mode else "scene.jpg" if mode == "CMYK" else "scene.png")
    scene(300, 200).convert(mode.partition("-")[0]).save(path)
    agree(case, decode(path), load_image(str(path)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif(case: tuple[Any, ImageSpec], orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene(300, 200).save(path := tmp_path / "scene.jpg", exif=exif)
    agree(case, decode(path), load_image(str(path)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_white_and_not_whatever_lies_under_it(case: tuple[Any, ImageSpec], mode: str, tmp_path: Path) -> None:
    image = scene(300, 200).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 150, 200))
    options: dict[str, Any] = {"transparency": 0} if mode == "P" else {}
    palette = scene(300, 200).convert("L").convert("P")
    palette.paste(0, (0, 0, 150, 200))
    (palette if mode == "P" else image.convert(mode)).save(path := tmp_path / "scene.png", **options)
    ours, theirs = decode(path), load_image(str(path))
    assert ours.getpixel((10, 10)) == (255, 255, 255)
    assert theirs.getpixel((10, 10)) == (0, 0, 0)
    agree(case, ours, ours)


def test_16_bits_are_scaled_and_not_clipped(case: tuple[Any, ImageSpec], tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 300 * 200).astype(np.uint16).reshape(200, 300)
    Image.fromarray(values).save(path := tmp_path / "scene.png")
    ours, theirs = decode(path), load_image(str(path))
    np.testing.assert_array_equal(np.asarray(ours)[..., 0], values >> 8)
    assert (np.asarray(theirs) == 255).mean() > 0.99
    agree(case, ours, ours)


def test_large_jpegs_are_decoded_in_full(case: tuple[Any, ImageSpec], tmp_path: Path) -> None:
    _, spec = case
    assert spec.full_decode
    scene(1700, 1300).save(path := tmp_path / "scene.jpg")
    agree(case, decode(path), load_image(str(path)))


@pytest.mark.parametrize("name", ["vilt", "vilt-224"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (900, 310), (500, 499)])
def test_patch_mask_is_vilts_pixel_mask(name: str, size: tuple[int, int]) -> None:
    processor = PROCESSORS[name]()
    spec = image_spec_of(processor, name)
    patches = spec.size // spec.divisor
    # Beside an image of each direction at full length theirs is padded to our canvas.
    batch = processor([scene(*size), scene(1000, 500), scene(500, 1000)])
    theirs = np.asarray(batch["pixel_mask"][0])
    assert theirs.shape == (spec.size, spec.size)
    np.testing.assert_array_equal(patch_mask(size, spec), downsampled(theirs, patches))
    width, height = edge_size(size, spec)
    assert theirs.sum() == width * height


def downsampled(mask: Array, patches: int) -> Array:
    """As `ViltEmbeddings` does it."""
    values = torch.from_numpy(mask)[None, None].float()
    return torch.nn.functional.interpolate(values, size=(patches, patches)).long()[0, 0].numpy()


def test_vilt_sees_no_difference_between_their_padding_and_ours() -> None:
    from transformers import ViltConfig, ViltModel

    torch.manual_seed(0)
    config = ViltConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=32,
        vocab_size=50,
    )
    model = ViltModel(config).eval()  # type: ignore[no-untyped-call]
    processor = ViltImageProcessorPil(size={"shortest_edge": 64})
    spec = image_spec_of(processor, "vilt", model_size=64)
    image = scene(90, 70)
    text = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    mask = torch.from_numpy(patch_mask(image.size, spec).repeat(32, 0).repeat(32, 1).astype(np.int64))
    with torch.no_grad():
        theirs = model(**text, **processor(image, return_tensors="pt")).pooler_output
        ours = normalise(to_pixels(image, spec)[None], spec)
        padded = model(**text, pixel_values=torch.from_numpy(ours), pixel_mask=mask[None]).pooler_output
    torch.testing.assert_close(padded, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("most", [36, 256, 1024])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (1, 500), (900, 31), (3, 3), (4000, 3999)])
def test_patches_are_those_of_naflex(most: int, size: tuple[int, int]) -> None:
    processor = Siglip2ImageProcessorPil(max_num_patches=most)
    spec = image_spec_of(processor, "naflex")
    assert (spec.fit, spec.mask_shape) == ("patches", (2, most))
    image = scene(*size)
    theirs = processor(image, do_rescale=False, do_normalize=False)
    rows, columns = theirs["spatial_shapes"][0]
    np.testing.assert_array_equal(patch_mask(size, spec).sum(1), [rows, columns])
    assert patch_mask(size, spec)[0, :rows].all()
    ours = patches_of(to_pixels(image, spec), spec.divisor)
    assert theirs["pixel_attention_mask"][0].sum() == rows * columns
    np.testing.assert_array_equal(ours, theirs["pixel_values"][0])


def test_strips_are_cropped_before_they_fill_the_memory() -> None:
    spec = image_spec_of(CLIPImageProcessorPil(), "clip")
    image = scene(3, 1000)
    whole = image.resize(edge_size(image.size, spec), Image.Resampling.BICUBIC)
    top = (whole.height - 224) // 2
    difference = to_pixels(image, spec).transpose(1, 2, 0).astype(int) - np.asarray(whole.crop((0, top, 224, top + 224)))
    assert np.abs(difference).mean() < 3  # of 255: see _middle_of_strip
    for size in ((1, 100_000), (100_000, 1)):
        tracemalloc.start()
        assert to_pixels(Image.new("RGB", size, (9, 8, 7)), spec)[:, 100, 100].tolist() == [9, 8, 7]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()


def test_settings_are_read() -> None:
    vilt = image_spec_of(ViltImageProcessorPil(), "vilt", model_size=384)
    assert (vilt.size, vilt.edge, vilt.divisor, vilt.fit) == (608, 384, 32, "edge-corner")
    plain = image_spec_of(ViTImageProcessorPil(do_normalize=False), "plain")
    assert (plain.mean, plain.std, plain.resampling) == ((0.0,) * 3, (1.0,) * 3, "bilinear")
    square = CLIPImageProcessorPil(size={"height": 224, "width": 224})
    assert image_spec_of(square, "square", model_size=224).fit == "stretch"


class WithProcessor:
    image_processor = BlipImageProcessorPil()


def test_a_processor_of_images_and_texts_will_do() -> None:
    assert image_spec_of(WithProcessor(), "blip").size == 384


class Upside(BlipImageProcessorPil):
    """Does what its settings do not say."""

    def resize(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        return super().resize(image[:, ::-1], *args, **kwargs)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (ViTImageProcessorPil(do_resize=False), "resizes images to"),
        (ViTImageProcessorPil(do_rescale=False), "multiplies pixels by 1;"),
        (ViTImageProcessorPil(rescale_factor=1 / 127.5), "multiplies pixels by 0.0078"),
        (ViTImageProcessorPil(resample=1), "Pillow's filter 1; expected: 2"),
        (ViTImageProcessorPil(size={"height": 224, "width": 200}), "'height': 224, 'width': 200"),
        (ViTImageProcessorPil(image_mean=[0.5]), "image_mean"),
        (CLIPImageProcessorPil(do_center_crop=False), "shortest_edge"),
        (CLIPImageProcessorPil(crop_size={"height": 224, "width": 200}), "crops them"),
        (ConvNextImageProcessorPil(), "shortest_edge"),
        (DeiTImageProcessorPil(), "256.*crops them to.*224"),
        (Siglip2ImageProcessorPil(max_num_patches=200), "up to 200 patches.*a square number"),
        (LevitImageProcessorPil(), "does more to images"),
        (Upside(), "does more to images"),
        (BridgeTowerImageProcessorPil(crop_size={"height": 288, "width": 288}), "fails: "),
    ],
)
def test_what_we_have_no_words_for_is_refused(processor: Any, message: str) -> None:
    with pytest.raises(ConvertError, match=rf"'some/model'.*{message}"):
        image_spec_of(processor, "some/model")


def test_a_processor_that_does_not_fit_its_model_is_refused() -> None:
    with pytest.raises(ConvertError, match=r"224 x 224 pixels, but its model takes 336 x 336.*preprocessor_config"):
        image_spec_of(CLIPImageProcessorPil(), "some/model", model_size=336)
