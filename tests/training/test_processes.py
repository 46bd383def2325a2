"""Two processes that train together, as `accelerate launch` or `torchrun` starts them; here on the CPU, through gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from milvus_coop.offline.training.run.trainer import train
from tests.training.colours import config, metrics

ROOT = Path(__file__).parents[2]
SAME = 1e-5  # gradients are averaged in another order

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")


def train_together(data: Path, folder: Path, changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [str(data), str(folder / "run"), str(folder / "cache"), json.dumps(changes)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    return subprocess.run(
        [sys.executable, *launch, "-m", "tests.training.colours", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_processes_do_what_one_does_with_two_batches(be_run: Path, colours: Path, tmp_path: Path) -> None:
    """Also: tasks leave parameters unused, both stop early in the same round, and only one writes."""
    changes: dict[str, Any] = {
        "init": str(be_run),
        **dict.fromkeys(("width", "layers", "heads", "image_size"), 0),
        "order": ["be", "ce-hard", "ance"],
        "batch": 4,
        "rounds": 30,
        "eval_every": 2,
        "patience": 2,
    }
    done = train_together(colours, tmp_path, changes)
    assert done.returncode == 0, done.stderr
    alone = train(config(colours, **changes, accumulate=2), tmp_path / "alone", cache=tmp_path / "cache")
    assert alone.stopped_early
    lines = metrics(tmp_path / "run")
    assert [line["dev"] for line in lines] == [line["dev"] for line in metrics(tmp_path / "alone")]
    assert done.stdout.split() == [word for line in lines for word in ("round", str(line["round"]))]
    for name in ("best", "last"):
        ours, theirs = (load_file(run / name / "network.safetensors") for run in (tmp_path / "run", tmp_path / "alone"))
        assert ours.keys() == theirs.keys()
        assert max((ours[key] - theirs[key]).abs().max().item() for key in ours) < SAME


def test_a_process_without_images_does_not_stop_the_other(tmp_path: Path, colours: Path) -> None:
    """Two of four images cannot be read: now and then only one process has a pair, and waits for the other's gradient."""
    for path in colours.parent.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = [json.loads(line) for line in colours.read_text().splitlines()]
    kept = [line for line in lines if line["split"] == "dev"] + [line for line in lines if line["split"] == "train"][:4]
    broken = [kept[-4]["image"], kept[-1]["image"]]
    for name in broken:
        (tmp_path / name).write_bytes(b"no image")
    data = tmp_path / "few.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in kept))
    done = train_together(data, tmp_path, {"objective": "be", "order": ["be-nce"], "batch": 2, "rounds": 4, "eval_every": 4})
    assert done.returncode == 0, done.stderr
    assert len(metrics(tmp_path / "run")) == 1
    problems = [json.loads(line)["place"] for line in (tmp_path / "run" / "problems.jsonl").read_text().splitlines()]
    assert sorted(problems) == sorted(broken)
