"""A data set that a tiny network learns in seconds: noisy images of one colour each, with captions that name it.

Run as a program it trains a run and can be killed: `python -m tests.training.colours LIST FOLDER CACHE '{"rounds": 20}'`; it prints
a line per evaluation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.trainer import RunReport, TrainingProgress, train
from milvus_coop.types import Array

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "purple": (130, 40, 150),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "orange": (250, 140, 20),
}
SIZE = 32
TINY: dict[str, Any] = {
    "image_size": SIZE,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "token_dim": 16,
    "max_length": 16,
    "dropout": 0.0,
    "batch": 8,
    "rounds": 20,
    "eval_every": 10,
    "warm_up": 3,
    "learning_rate": 1e-3,
    "threads": 1,
    "k": 4,
    "mined": 4,
    "mine_every": 1,
    "precision": "no",  # whatever this machine computes best in
}
TIMES = ("pairs_per_s",)


def image(colour: str, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 12, (SIZE, SIZE, 3))
    pixels: Array = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def draw_colours(folder: Path) -> Path:
    """24 images, two per colour to train on and one to check; every caption of a colour is true of all its images."""
    lines = []
    for number, colour in enumerate(COLOURS):
        for copy, split in enumerate(("train", "train", "dev")):
            name = f"{colour}{copy}.png"
            image(colour, 10 * number + copy).save(folder / name)
            lines.append({"image": name, "captions": [f"a {colour} picture", f"something {colour}"], "split": split})
    path = folder / "colours.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def config(data: Path | str, objective: str = "joint", **changes: Any) -> TrainConfig:
    return TrainConfig.from_dict({"objective": objective, "data": str(data), **TINY, **changes})


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def run_main(arguments: list[str]) -> RunReport:
    data, folder, cache, changes = arguments
    torch.set_num_threads(1)

    def show(progress: TrainingProgress) -> None:
        if progress.dev is not None:
            print(f"round {progress.done}", flush=True)  # noqa: T201

    return train(config(data, **{"objective": "joint", **json.loads(changes)}), folder, cache=cache, on_progress=show)


if __name__ == "__main__":
    run_main(sys.argv[1:])
