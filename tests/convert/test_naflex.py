"""SigLIP 2 NaFlex before the export: the vision tower on grids of every shape against that of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from milvus_coop.errors import ConvertError
from milvus_coop.models.preprocess.images import normalise, patch_mask, to_pixels
from milvus_coop.offline.convert.checkpoint import open_checkpoint
from milvus_coop.offline.convert.families import open_source
from milvus_coop.offline.convert.families.naflex import _triangle
from milvus_coop.offline.convert.family import CheckpointSource
from tests.convert.checkpoints import naflex
from tests.convert.test_preprocessing import scene

SIZES = [(300, 200), (200, 300), (64, 64), (90, 20), (20, 100), (500, 7), (4, 3), (999, 1000)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CheckpointSource:
    return open_source(open_checkpoint(naflex(tmp_path_factory.mktemp("naflex") / "checkpoint")))


def embedded(source: CheckpointSource, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings by our modules and by the class."""
    pixels = torch.from_numpy(normalise(np.stack([to_pixels(image, source.image) for image in images]), source.image))
    mask = torch.from_numpy(np.stack([patch_mask(image.size, source.image) for image in images]))
    ids = torch.ones(len(images), 64, dtype=torch.long)
    assert source.retriever is not None
    with torch.no_grad():
        ours = source.retriever.embed_images(source.vision(pixels, mask.float()))
        theirs = source.reference({"pixel_values": pixels, "patch_mask": mask, "input_ids": ids})["image_embedding"]
    return ours, theirs


def test_every_shape_and_every_batch(source: CheckpointSource) -> None:
    images = [scene(*size) for size in SIZES]
    ours, theirs = embedded(source, images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.std(0).max() > 0.01
    for number, image in enumerate(images):
        torch.testing.assert_close(embedded(source, [image])[0][0], ours[number], rtol=0, atol=1e-5)


def test_what_fills_the_empty_places_is_not_seen(source: CheckpointSource) -> None:
    image = scene(300, 200)
    mask = torch.from_numpy(patch_mask(image.size, source.image))[None].float()
    pixels = torch.from_numpy(normalise(to_pixels(image, source.image)[None], source.image))
    assert mask.sum(-1).prod() < 36
    other = pixels.clone()
    other[:, :, -8:, -8:] = 5.0  # the last place
    with torch.no_grad():
        torch.testing.assert_close(source.vision(other, mask), source.vision(pixels, mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 36])
def test_positions_are_resized_as_by_pytorch(count: int) -> None:
    """Along a row. PyTorch 2.13 resizes to a single column in another way than to a single row."""
    positions = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    ours = _triangle(torch.arange(count, dtype=torch.float32)[None], torch.tensor([[float(count)]]), 4)[0] @ positions
    options = {"mode": "bilinear", "align_corners": False, "antialias": True}
    theirs = torch.nn.functional.interpolate(positions.T[None, :, None, :], size=(1, count), **options)[0, :, 0].T  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_patches_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = naflex(tmp_path / "checkpoint")
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"patch_size": 8', '"patch_size": 16'), encoding="utf-8")
    with pytest.raises(ConvertError, match="makes no patches of 8 pixels"):
        open_source(open_checkpoint(folder))
