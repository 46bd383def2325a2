"""Data and trained runs that several modules of tests share: each is made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from milvus_coop.offline.training.run.trainer import train
from tests.plans.conftest import rtx
from tests.training.colours import config, draw_colours

__all__ = ["rtx"]  # TensorRT-RTX, as the tests of plans ask for it


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list of the colour images."""
    return draw_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared runs lie, with their feature cache."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def be_run(colours: Path, runs: Path) -> Path:
    train(config(colours, "be", rounds=40, eval_every=20), runs / "be")
    return runs / "be"


@pytest.fixture(scope="session")
def ce_run(colours: Path, runs: Path, be_run: Path) -> Path:
    """Starts from the bi-encoder, which also finds its negatives."""
    sizes = dict.fromkeys(("width", "layers", "heads", "image_size"), 0)
    changes = {"init": str(be_run), "miner": str(be_run), "order": ["ce-list"], "rounds": 70, "eval_every": 35, **sizes}
    train(config(colours, "ce", learning_rate=2e-3, hard_share=0.2, k=8, **changes), runs / "ce", cache=runs / "cache")
    return runs / "ce"


@pytest.fixture(scope="session")
def joint_run(colours: Path, runs: Path) -> Path:
    """In the order of the paper's best recipe."""
    order = ["be", "ce-hard", "ance", "ce-hard"]
    train(config(colours, "joint", order=order, rounds=30, eval_every=10, tensorboard=True), runs / "joint")
    return runs / "joint"
