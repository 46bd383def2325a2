"""A run's JSON files are read with checks: what is wrong in them is named, with the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.errors import TrainingError
from milvus_coop.offline.training.networks.pretrained import open_vision
from milvus_coop.offline.training.networks.vision import CONFIG_FILE, load_vision, save_vision
from milvus_coop.offline.training.run.folder import RunFolder, build_network


@pytest.fixture
def copy(be_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(be_run, tmp_path / "run"))


def damage(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"objective": "be", "data": "x", "match": "CLS"}, 'match is "CLS"; expected: one of cls, residual'),
        ({"objective": "be", "data": "x", "colour": 1}, 'there is no field "colour"'),
        ({"objective": "be"}, 'the field "data" is missing'),
        ([], r"the content is \[\]; expected: an object"),
    ],
)
def test_the_configuration(copy: Path, config: Any, message: str) -> None:
    damage(copy / "run.json", {"config": config})
    with pytest.raises(TrainingError, match=rf"run/run\.json: {message}"):
        RunFolder(copy).config()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": '])
def test_a_record_that_is_none(copy: Path, content: str) -> None:
    (copy / "run.json").write_text(content)
    with pytest.raises(TrainingError, match=r"run/run\.json (is not JSON|holds no configuration)"):
        RunFolder(copy).config()


def test_the_network_s_sizes(copy: Path) -> None:
    damage(copy / "network.json", {"layers": "two"})
    with pytest.raises(TrainingError, match=r'network\.json: layers is "two"; expected: a whole number'):
        build_network(copy)
    (copy / "network.json").unlink()
    with pytest.raises(TrainingError, match=r"network\.json cannot be read: No such file"):
        build_network(copy)


def test_the_state(copy: Path) -> None:
    damage(copy / "last" / "state.json", {"round": None})
    with pytest.raises(TrainingError, match=r"state\.json: round is null"):
        RunFolder(copy).state()


def test_the_backbone(tmp_path: Path) -> None:
    save_vision(open_vision("conv", size=32), tmp_path)
    damage(tmp_path / CONFIG_FILE, {"kind": "eyes"})
    with pytest.raises(TrainingError, match=r'vision\.json: kind is "eyes"; expected: one of conv, detector'):
        load_vision(tmp_path)
