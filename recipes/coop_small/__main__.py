"""Run a step of the recipe, or all: `python -m recipes.coop_small all`; README.md in this folder describes them."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.coop_small.card import write_card
from recipes.coop_small.drawings import collect as collect_drawings
from recipes.coop_small.evaluate import evaluate_bundle
from recipes.coop_small.export import check_bundle, time_pairs, write_bundle
from recipes.coop_small.features import extract_maps
from recipes.coop_small.packages import fetch as fetch_packages
from recipes.coop_small.parts import load_parts, pack, unpack
from recipes.coop_small.pipeline import VIEWS, Recipe, assemble, read_items, save_towers, train_cross
from recipes.coop_small.pipeline import train as train_towers
from recipes.coop_small.texts import read_texts
from recipes.coop_small.whole import train_whole

logger = logging.getLogger("coop_small")
SHIPPED = Path(__file__).resolve().parents[2] / "milvus_coop" / "bundles" / "coop-small"


@dataclass(frozen=True)
class Run:
    """Where one run of the recipe reads and writes."""

    work: Path
    photos: Path | None
    """The folder of photographs; None: the bundle is made of drawings alone."""
    bundle: Path
    end_to_end: bool
    device: str
    trained: Path | None
    """A folder with towers in parts, that were trained elsewhere."""
    recipe: Recipe

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Keep figures for the card."""
        (self.work / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def fetch(run: Run) -> None:
    """Download and unpack the packages (440 MB)."""
    fetch_packages(run.work)


def collect(run: Run) -> None:
    """List and render the captioned drawings (20,000)."""
    collect_drawings(run.work)


def features(run: Run) -> None:
    """Run the frozen halves of both towers over all training images and texts; for a GPU, put the images and texts into parts."""
    items, folder = read_items(run.work, run.photos), run.work / "features"
    if run.device != "cpu":
        kinds = (("photos", items.photos), ("drawings", items.drawings))
        pack(
            run.work / "raw", {f"{kind}_{part}": some for kind, parts in kinds for part, some in parts.items()}, run.work / "parts"
        )
        return
    folder.mkdir(exist_ok=True)
    for kind, some in (("photos", items.photos["train"]), ("drawings", items.drawings["train"])):
        if some:
            extract_maps(run.work / "raw", some, folder / f"{kind}_train.npy", views=VIEWS[kind])
    texts = [text for parts in (items.photos, items.drawings) for item in parts["train"] for text in item.texts]
    read_texts(run.work / "raw", texts).save(folder / "texts.npz")


def train(run: Run) -> None:
    """Train the heads, then both towers end to end."""
    if run.trained:
        save_towers(run.work, load_parts(run.trained))
    elif run.device == "cpu":
        train_towers(run.work, run.photos, run.recipe, end_to_end=run.end_to_end)
    else:
        save_towers(run.work, train_whole(unpack(run.work / "parts"), run.recipe.whole, run.device))


def cross(run: Run) -> None:
    """Train and calibrate the cross-encoder; cross-validate it on dev."""
    run.write("cross.json", train_cross(run.work, run.photos, run.recipe))


def export(run: Run) -> None:
    """Write the bundle, and compare it with PyTorch."""
    networks = assemble(run.work, run.recipe)
    lineage = {"recipe": asdict(run.recipe), "photographs": run.photos is not None, "end_to_end": run.end_to_end}
    write_bundle(run.bundle, run.work / "raw", networks, lineage=lineage)
    sample = (read_items(run.work, run.photos).photos["dev"] or read_items(run.work, None).drawings["dev"])[:64]
    outputs = check_bundle(run.bundle, [item.path for item in sample], [item.texts[0] for item in sample], networks)
    run.write("parity.json", {"outputs": outputs, "ce_ms": time_pairs(run.bundle)})


def evaluate(run: Run) -> None:
    """Search the test sets with the bundle, through Milvus Lite. The test sets are read once per release."""
    run.write("evaluate.json", evaluate_bundle(run.bundle, run.work, run.photos))


def card(run: Run) -> None:
    """Write the model card from the figures of the steps before."""
    write_card(run.bundle, run.work)


STEPS: tuple[Callable[[Run], None], ...] = (fetch, collect, features, train, cross, export, evaluate, card)


def main() -> None:
    """Run the steps that are asked for; `all` passes over those that are done."""
    parser = argparse.ArgumentParser(prog="python -m recipes.coop_small", description=__doc__)
    parser.add_argument("steps", nargs="+", choices=["all", *(step.__name__ for step in STEPS)], metavar="STEP")
    parser.add_argument("--work", type=Path, default=Path("build/coop-small"), help="everything but the bundle goes here")
    parser.add_argument("--photos", type=Path, help="folder with flickr8k/captions.jsonl; without it, drawings alone are used")
    parser.add_argument("--bundle", type=Path, default=SHIPPED, help="folder of the bundle (default: the shipped one)")
    parser.add_argument("--no-end-to-end", action="store_true", help="train the heads alone: half an hour and 6 points of R@1 less")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: both towers are trained whole, on one GPU")
    parser.add_argument(
        "--trained", type=Path, metavar="FOLDER", help="take the towers that `python -m recipes.coop_small.whole` wrote"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2, help="threads of the trainings")
    asked = parser.parse_args()
    if asked.photos and not (asked.photos / "flickr8k" / "captions.jsonl").is_file():
        parser.error(f"--photos {asked.photos} has no flickr8k/captions.jsonl; see recipes/coop_small/README.md for its form")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("coop_small", "recipes"):
        logging.getLogger(name).setLevel(logging.INFO)
    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    run = Run(asked.work, asked.photos, asked.bundle, not asked.no_end_to_end, asked.device, asked.trained, Recipe())
    for step in STEPS:
        mark = run.work / f"{step.__name__}.done"
        if step.__name__ in asked.steps or ("all" in asked.steps and not mark.exists()):
            started = time.monotonic()
            step(run)
            mark.write_text(f"{time.monotonic() - started:.0f}\n")
            logger.info("%s: %.0f s", step.__name__, time.monotonic() - started)


if __name__ == "__main__":
    main()
