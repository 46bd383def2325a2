"""The network: padding and batch mates change nothing, and stored tokens lose little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.models.tokens import quantise
from milvus_coop.offline.training.bundling.roles import CrossEncoderGraph
from milvus_coop.offline.training.networks.backbones import ConvBackbone
from milvus_coop.offline.training.networks.detector import RegionDetector
from milvus_coop.offline.training.networks.one_stream import NetworkConfig, OneStream
from milvus_coop.offline.training.networks.vision import Vision, VisionConfig, cell_weights, load_vision, save_vision
from milvus_coop.offline.training.run.folder import load_network, load_state, network_state

SAME = 1e-5  # float32 sums in another order
VISION = VisionConfig("conv", ImageSpec(32, mean=(0.5,) * 3, std=(0.5,) * 3), 4, 4, 12, {"widths": [4, 8, 12]})


def network(compress: Literal["cells", "queries"] = "cells", *, norm_first: bool = False) -> OneStream:
    torch.manual_seed(0)
    count = 16 if compress == "cells" else 5
    sizes = NetworkConfig(VISION, 50, 12, 2, 0, count, 16, compress, 32, 2, 4, 64, 24, norm_first=norm_first)
    model = OneStream(sizes, Vision(VISION))
    with torch.no_grad():
        for _ in range(20):  # the batch norms learn what images are like
            model.tokens(images(8, seed=9))
    return model.eval()


def texts(count: int, length: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    ids = torch.randint(4, 50, (count, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 2
    return ids, torch.ones_like(ids)


def images(count: int, seed: int = 2) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, 1, 1, generator=dice) * torch.rand(count, 3, 32, 32, generator=dice) * 256).to(torch.uint8)


KINDS = pytest.mark.parametrize(("compress", "norm_first"), [("cells", False), ("queries", True)])


@KINDS
@torch.no_grad()
def test_padding_changes_nothing(compress: Literal["cells", "queries"], norm_first: bool) -> None:
    model = network(compress, norm_first=norm_first)
    ids, mask = texts(3, 5)
    padded, padding = torch.full((3, 12), 7), torch.zeros(3, 12, dtype=torch.int64)
    padded[:, :5], padding[:, :5] = ids, 1
    tokens = model.tokens(images(3))
    assert torch.allclose(model.embed_texts(ids, mask), model.embed_texts(padded, padding), atol=SAME)
    assert torch.allclose(model.match(ids, mask, tokens), model.match(padded, padding, tokens), atol=SAME)


@KINDS
@torch.no_grad()
def test_batch_mates_and_their_order_change_nothing(compress: Literal["cells", "queries"], norm_first: bool) -> None:
    model = network(compress, norm_first=norm_first)
    (ids, mask), pixels, order = texts(4, 6), images(4), torch.tensor([2, 0, 3, 1])
    tokens = model.tokens(pixels)
    together = [model.embed_texts(ids, mask), model.embed_images(tokens), model.match(ids, mask, tokens)]
    turned = model.tokens(pixels[order])
    moved = [model.embed_texts(ids[order], mask[order]), model.embed_images(turned), model.match(ids[order], mask[order], turned)]
    for one, other in zip(together, moved, strict=True):
        assert torch.allclose(one[order], other, atol=SAME)
        assert (one[0] - one[1]).abs().max() > 100 * SAME  # so it does look at its input
    alone = model.tokens(pixels[:1])
    assert torch.allclose(model.embed_images(alone), together[1][:1], atol=SAME)


@torch.no_grad()
def test_word_order_and_image_matter() -> None:
    model = network(norm_first=True)
    ids, mask = texts(1, 6)
    turned = ids[:, [0, 2, 1, 3, 4, 5]]
    tokens = model.tokens(images(2))
    assert (model.embed_texts(ids, mask) - model.embed_texts(turned, mask)).abs().max() > 1e-3
    assert (model.match(ids, mask, tokens[:1]) - model.match(ids, mask, tokens[1:])).abs() > 1e-3
    shuffled = tokens[:1, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    assert (model.match(ids, mask, tokens[:1]) - model.match(ids, mask, shuffled)).abs() > 1e-4


@KINDS
@torch.no_grad()
def test_embeddings_are_unit_and_tokens_normed(compress: Literal["cells", "queries"], norm_first: bool) -> None:
    model = network(compress, norm_first=norm_first)
    tokens = model.tokens(images(3))
    assert tokens.shape == (3, model.config.tokens, 16)
    assert torch.allclose(tokens.mean(-1), torch.zeros(3, model.config.tokens), atol=1e-4)
    assert torch.allclose(model.embed_images(tokens).norm(dim=1), torch.ones(3), atol=SAME)
    assert torch.allclose(model.embed_texts(*texts(3, 4)).norm(dim=1), torch.ones(3), atol=SAME)


@torch.no_grad()
def test_queries_see_every_cell_and_differ() -> None:
    compressor = network("queries").compressor
    features = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(0))
    before = compressor(features)
    assert before[0].unique(dim=0).shape[0] == 5
    for cell in (0, 7, 15):
        changed = features.clone()
        changed[0, cell] += 5
        assert ((compressor(changed) - before).abs().amax(-1) > 1e-4).all()


@KINDS
@torch.no_grad()
def test_the_stored_tokens_are_as_good(compress: Literal["cells", "queries"], norm_first: bool) -> None:
    """int8 with one scale per token: a step of a normed token is about 3 / 127."""
    model = network(compress, norm_first=norm_first)
    (ids, mask), tokens = texts(6, 7), model.tokens(images(6))
    values, scales = quantise(tokens.numpy())
    exact = model.match(ids, mask, tokens).sigmoid()
    rounded = CrossEncoderGraph(model)(ids, mask, torch.from_numpy(values), torch.from_numpy(scales.astype(np.float32)))
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.005


def test_cells_are_pooled_as_torch_does() -> None:
    grid = torch.randn(2, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    for side in (1, 3, 4, 7):
        wanted = torch.nn.functional.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)
        assert torch.allclose(cell_weights(7, side) @ grid.flatten(2).transpose(1, 2), wanted, atol=SAME)


@torch.no_grad()
def test_a_vision_normalises_and_pools() -> None:
    config = replace(VISION, side=2)
    vision = Vision(config).eval()
    pixels = images(2)
    assert isinstance(vision.backbone, ConvBackbone)
    grid = vision.backbone(pixels.float() / 127.5 - 1).transpose(1, 2).unflatten(2, (4, 4))
    wanted = torch.nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
    assert torch.allclose(vision(pixels), wanted, atol=1e-4)
    assert vision(pixels).shape == (2, config.cells, config.features)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["conv", "detector"])
def test_a_backbone_survives_its_folder(kind: str, tmp_path: Path) -> None:
    options = {"stages": [[8, 4], [8, 1], [12, 2]], "attributes": {"colour": 3, "shape": 2}, "regions": 3}
    config = VISION if kind == "conv" else VisionConfig("detector", VISION.image, 4, 4, 12 + 3 + 2 + 8, options)
    vision = Vision(config).eval()
    save_vision(vision, tmp_path / "vision")
    found = load_vision(tmp_path / "vision")
    assert found.config == config
    assert torch.equal(found(images(2)), vision(images(2)))
    assert found(images(2)).shape == (2, config.cells, config.features)


@torch.no_grad()
def test_a_detector_gives_the_likeliest_cells() -> None:
    torch.manual_seed(0)
    detector = RegionDetector([(8, 4), (8, 2)], {"colour": 3}, 2).eval()
    pixels = torch.randn(2, 3, 32, 32)
    hidden = detector.cells(pixels)
    for image in range(2):
        presence = [detector.presence(cell).sigmoid().item() for cell in hidden[image]]
        best = sorted(range(16), key=lambda cell: -presence[cell])[:2]
        for region, cell in zip(detector(pixels)[image], best, strict=True):
            assert torch.allclose(region[:8], hidden[image, cell], atol=SAME)
            colours = detector.heads["colour"](hidden[image, cell]).softmax(-1) * presence[cell]
            assert torch.allclose(region[8:11], colours, atol=SAME)
            assert region[11:15].argmax() == cell // 4
            assert region[15:].argmax() == cell % 4


def test_a_frozen_backbone_is_not_saved_twice(tmp_path: Path) -> None:
    model = network()
    assert any(name.startswith("vision.") for name in network_state(model))
    assert model.vision is not None
    model.vision.requires_grad_(False)
    assert not any(name.startswith("vision.") for name in network_state(model))


@torch.no_grad()
def test_a_trained_network_is_found_again(be_run: Path) -> None:
    model, tokenizer = load_network(be_run)
    last, _ = load_network(be_run, "last")
    assert tokenizer == be_run / "tokenizer.json"
    assert not model.training
    embedded = model.embed_images(model.tokens(images(2)))
    model.words.weight.zero_()
    load_state(model, be_run / "best" / "network.safetensors")
    assert torch.equal(model.embed_images(model.tokens(images(2))), embedded)
    assert isinstance(last, OneStream)
