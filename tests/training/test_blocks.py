"""Blocks of look-alikes: the loss against a naive version, and what a batch of them holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.offline.training.networks.one_stream import NetworkConfig, OneStream
from milvus_coop.offline.training.networks.vision import VisionConfig
from milvus_coop.offline.training.objectives.matching import block_loss
from milvus_coop.offline.training.objectives.retrieval import info_nce
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.feed import _draw
from milvus_coop.offline.training.run.trainer import train


def test_block_loss_is_info_nce_in_every_block() -> None:
    torch.manual_seed(0)
    logits, same = torch.randn(5, 4, 4), torch.rand(5, 4, 4) < 0.2
    same |= torch.eye(4, dtype=torch.bool)
    expected = sum(info_nce(block, mask).item() for block, mask in zip(logits, same, strict=True)) / 5
    assert block_loss(logits, same).item() == pytest.approx(expected, rel=1e-5)


def test_first_draws_fall_off_with_the_rank_and_stay_in_the_list() -> None:
    lists = np.concatenate([np.tile(np.arange(50), (4000, 1)), np.tile([7, 8, *[-1] * 48], (4000, 1))])
    drawn = _draw(lists, 3, np.random.default_rng(0), first=True)
    assert 0.45 < (drawn[:4000] < 6).mean() < 0.55
    assert set(drawn[:4000].ravel()) >= set(range(40))
    assert set(drawn[4000:].ravel()) == {7, 8}


@pytest.mark.parametrize("match", ["cls", "residual"])
def test_a_joint_run_with_blocks_leaves_finite_losses(tmp_path: Path, colours: Path, match: Literal["cls", "residual"]) -> None:
    config = TrainConfig(
        "joint",
        str(colours),
        ("be-nce", "ce-block"),
        rounds=3,
        batch=12,
        mined=5,
        width=32,
        layers=1,
        eval_every=3,
        image_size=32,
        match=match,
    )
    report = train(config, tmp_path / "run", cache=tmp_path / "features")
    assert report.rounds == 3
    assert np.isfinite(report.best)


def test_a_residual_match_starts_as_the_cosine() -> None:
    torch.manual_seed(0)
    image = ImageSpec(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    vision = VisionConfig("conv", image, own_side=2, side=2, features=8)
    network = OneStream(
        NetworkConfig(vision, 20, 8, cls_id=2, pad_id=0, tokens=4, token_dim=6, width=16, layers=1, match="residual")
    )
    ids, mask = torch.randint(3, 20, (5, 6)), torch.ones(5, 6, dtype=torch.int64)
    tokens = network.tokens(torch.randn(5, 4, 8)).detach()
    cosines = (network.eval().embed_texts(ids, mask) * network.embed_images(tokens)).sum(-1)
    for given in (None, cosines):
        assert torch.allclose(network.match(ids, mask, tokens, given), 20 * cosines, atol=1e-4)
