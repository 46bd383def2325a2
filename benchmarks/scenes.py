"""The paper's claim on data that every machine can generate: BE, CE, Sep+Coop and Joint+Coop on scenes of coloured shapes.

    python benchmarks/scenes.py                     trains four models and evaluates them on pools of 1k and 10k scenes
    python benchmarks/scenes.py --seed 1 --work build/scenes-1 --json > scenes.json
    python benchmarks/scenes.py --quick             a smoke test: far too little training, pools of 60 and 120

The captions of look-alikes differ only in which attribute belongs to which thing ("a small red circle left of a large blue
square"), with five scenes in a group. These are trained on the same 20,000 scenes:

- a detector that names the thing in each cell of an image. It is the analogue of the paper's Faster R-CNN, with the generator's
  truth as its labels, and learns nothing about captions or relations. Then it is frozen, and all models read the regions that it
  finds;
- a bi-encoder from random weights with ordinary negatives: the other pairs of a shuffled batch (InfoNCE);
- a bi-encoder with hard negatives: it starts from the first bi-encoder and gets whole groups of look-alikes in its batches;
- a cross-encoder that starts from the second bi-encoder's weights, with negatives mined from the first one's best answers;
- a joint model that starts from the same weights. It uses them in both roles, its tasks take turns, and its negatives are mined
  from its own bi-encoder.

They are evaluated through Milvus Lite (`milvus_coop.offline.evaluation`): 500 scenes are queries in both directions, first among
1,000, then among 10,000. Runs are kept in --work: a second call only evaluates, and an interrupted call is continued.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL.Image import Image
from rich.console import Console
from rich.table import Table
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.scene_data import ATTRIBUTES, Scenes, scene_of
from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.models.preprocess.images import to_pixels
from milvus_coop.offline.datasets import CaptionedImage, DataProblem, Dataset, Split
from milvus_coop.offline.evaluation import BundleChoice, EvaluationOptions, EvaluationProgress, EvaluationReport, evaluate
from milvus_coop.offline.evaluation.records import Cost, Direction, Quality, SystemVariant
from milvus_coop.offline.training.bundling.export import export_run
from milvus_coop.offline.training.networks.detector import RegionDetector
from milvus_coop.offline.training.networks.vision import Vision, VisionConfig, save_vision
from milvus_coop.offline.training.run.config import TrainConfig
from milvus_coop.offline.training.run.pace import TrainingProgress
from milvus_coop.offline.training.run.trainer import train
from milvus_coop.types import Array

SIZE = 96
STAGES = ((16, 2), (16, 1), (32, 2), (32, 1), (48, 2), (48, 1), (64, 2), (64, 1))
"""Channels and stride of the detector's convolutions: 6 x 6 cells of 64 numbers."""
SIDE = 6
MARGIN = 0.15
"""Share of a cell by which a thing may be outside. Without it a thing on a border would be half in two cells and whole in none."""
REGIONS = 8
PLACES = 16
"""Number of parts of each axis. The detector also names the part that contains a thing's centre, as the box of a region."""
KS = (10, 20)
MAX_PAIRS = 2_000_000

Say = Callable[[str], object]


@dataclass(frozen=True)
class StudyPlan:
    """The amounts of data and training."""

    train: int = 20_000
    dev: int = 500
    pools: tuple[int, ...] = (1_000, 10_000)
    queries: int = 500
    """Number of queries. All of them are in the smallest pool."""
    detector: int = 600
    """Number of training steps of the detector, with 32 images each."""
    be: int = 300
    be_hard: int = 450
    ce: int = 800
    joint: int = 450
    """Number of training rounds, as for `be`, `be_hard` and `ce`."""
    batch: int = 128
    exhaustive_queries: int = 60
    cost_queries: int = 100
    seed: int = 0

    def dataset(self) -> Scenes:
        """The scenes of all trainings and evaluations."""
        return Scenes(train=self.train, dev=self.dev, test=max(self.pools), seed=self.seed)

    def config(self, objective: str, rounds: int, vision: Path, **more: Any) -> TrainConfig:
        """The configuration of a run, with the settings that all runs share."""
        return TrainConfig(
            objective=objective,  # type: ignore[arg-type]
            data=f"{self.train} generated scenes",
            rounds=rounds,
            vision=str(vision),
            warm_up=50,
            width=96,
            layers=3,
            heads=4,
            dim=128,
            token_dim=48,
            dropout=0.0,
            max_length=32,
            match="residual",
            eval_every=-(-rounds // 3),
            dev_items=min(200, self.dev),
            k=10,
            seed=self.seed,
            precision="no",  # the figures in docs/training.md were measured with these three
            dev_queries=0,
            mine_every=1,
            **{"batch": self.batch, "learning_rate": 2e-3, **more},
        )


QUICK = StudyPlan(
    train=300,
    dev=30,
    pools=(60, 120),
    queries=20,
    detector=10,
    be=4,
    be_hard=4,
    ce=2,
    joint=2,
    batch=32,
    exhaustive_queries=5,
    cost_queries=3,
)


class Part:
    """Some test items of a data set, as a data set of its own."""

    def __init__(self, whole: Dataset, items: Sequence[CaptionedImage]) -> None:
        self.name = whole.name
        self.problems: Sequence[DataProblem] = ()
        self._whole, self._items = whole, items

    def items(self, split: Split) -> Sequence[CaptionedImage]:
        return self._items if split == "test" else ()

    def open(self, item: CaptionedImage) -> Image:
        return self._whole.open(item)


HEADS = {**{name: len(values) for name, values in ATTRIBUTES.items()}, "x": PLACES, "y": PLACES}


def truth(item: CaptionedImage) -> Array:
    """The output of a perfect detector: int64 (1 + heads, cells), with presence first, and -1 where there is nothing to name."""
    cells = np.full((1 + len(HEADS), SIDE * SIDE), -1, dtype=np.int64)
    cells[0] = 0
    for thing in scene_of(item).objects:
        named = (values.index(getattr(thing, name)) for name, values in ATTRIBUTES.items())
        said = 1, *named, int(thing.x * PLACES), int(thing.y * PLACES)
        rows, columns = ({int(at * SIDE + shift) for shift in (-MARGIN, MARGIN)} for at in (thing.y, thing.x))
        for row, column in product(rows, columns):
            cells[:, row * SIDE + column] = said
    return cells


def detector_loss(detector: RegionDetector, pixels: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    hidden = detector.cells(pixels)
    presence = cells[:, 0].float()
    loss = functional.binary_cross_entropy_with_logits(detector.presence(hidden)[..., 0], presence)
    for row, head in enumerate(detector.heads.values(), 1):
        loss = loss + functional.cross_entropy(head(hidden).transpose(1, 2), cells[:, row], ignore_index=-1)
    return loss


def train_detector(dataset: Dataset, folder: Path, steps: int, seed: int, say: Say) -> None:
    """Train the detector on single things, and save it as a frozen backbone for `TrainConfig.vision`."""
    if (folder / "vision.safetensors").is_file():
        return
    torch.manual_seed(seed)
    image = ImageSpec(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, resampling="bilinear", fit="stretch")
    options = {"stages": STAGES, "attributes": HEADS, "regions": REGIONS, "with_hidden": False}
    features = sum(HEADS.values()) + 2 * SIDE
    vision = Vision(VisionConfig("detector", image, SIDE, SIDE, features, options))
    detector = vision.backbone
    assert isinstance(detector, RegionDetector)
    optimiser = torch.optim.AdamW(vision.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    items, dice = dataset.items("train"), np.random.default_rng(seed)
    for step in range(steps):
        some = [items[i] for i in dice.integers(len(items), size=32)]
        pixels = torch.from_numpy(np.stack([to_pixels(dataset.open(item), image) for item in some]))
        loss = detector_loss(detector, (pixels.float() - vision.mean) / vision.std, torch.from_numpy(np.stack([*map(truth, some)])))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        say(f"detector: step {step + 1} of {steps}, loss {loss.item():.3f}")
    save_vision(vision.eval(), folder)


@dataclass(frozen=True)
class Bundles:
    """The trained models as bundles."""

    ordinary: Path
    """A separate model: the bi-encoder with ordinary negatives, and the cross-encoder."""
    hard: Path
    """A separate model: the bi-encoder with look-alikes in its batches, and the same cross-encoder."""
    joint: Path


def train_all(plan: StudyPlan, dataset: Dataset, work: Path, stages: dict[str, float], say: Say) -> Bundles:
    """Do every run in its folder, then make the bundles. The seconds of each stage are added to `stages`."""
    vision, runs = work / "vision", work / "runs"
    with timed(stages, "detector"):
        train_detector(dataset, vision, plan.detector, plan.seed, say)
    be, hard, ce, joint = (runs / name for name in ("be", "be-hard", "ce", "joint"))
    tuned = {"init": str(hard), "learning_rate": 7e-4, "hard_share": 1.0}  # with higher rates the network first unlearns
    configs = {
        be: plan.config("be", plan.be, vision, order=("be-nce",)),
        hard: plan.config("be", plan.be_hard, vision, order=("be-nce",), keep_groups=True, init=str(be)),
        ce: plan.config("ce", plan.ce, vision, order=("ce-block",), miner=str(be), batch=4, **tuned),
        joint: plan.config("joint", plan.joint, vision, order=("be-nce", "ce-block"), keep_groups=True, **tuned),
    }
    for folder, config in configs.items():
        with timed(stages, folder.name):
            report = train(config, folder, cache=work / "features", dataset=dataset, on_progress=shown(say, folder.name))
        say(f"{folder.name}: dev score {report.best:.1f}")
    bundles = Bundles(work / "bundles" / "sep-ordinary", work / "bundles" / "sep-hard", work / "bundles" / "joint")
    with timed(stages, "export"):
        for target, run, partner in ((bundles.ordinary, be, ce), (bundles.hard, hard, ce), (bundles.joint, joint, None)):
            if not target.exists():
                say(f"export {target.name}")
                export_run(run, target, cross_encoder=partner, precision="fp32", data=dataset, keep_checkpoint=False)
    return bundles


@contextmanager
def timed(stages: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    stages[name] = stages.get(name, 0.0) + time.monotonic() - start


def shown(say: Say, name: str) -> Callable[[TrainingProgress], None]:
    def show(progress: TrainingProgress) -> None:
        loss = f", loss {progress.loss:.3f}, {progress.pairs_per_s:,.0f} pairs/s" if progress.loss is not None else ""
        say(f"{name}: {progress.stage} {progress.done:,} of {progress.total:,}{loss}")

    return show


def evaluate_pool(plan: StudyPlan, dataset: Dataset, bundles: Bundles, size: int, say: Say) -> list[EvaluationReport]:
    """Evaluate the queries in a pool of `size`. The cross-encoder on every pair gets fewer queries, and only the smallest pool."""
    pool, smallest = dataset.items("test")[:size], min(plan.pools)
    asked = np.random.default_rng(plan.seed).permutation(smallest)[: plan.queries].tolist()
    options = EvaluationOptions(ks=KS, max_pairs=0, cost_queries=plan.cost_queries, cost_s=4.0, grow=False, gallery=0)
    separate = [BundleChoice(bundles.ordinary, name="ordinary"), BundleChoice(bundles.hard, name="hard")]
    joint = BundleChoice(bundles.joint, name="joint")

    def show(progress: EvaluationProgress) -> None:
        say(f"pool of {size:,}: {progress.stage} {progress.done:,} of {progress.total:,}")

    def ask(numbers: Sequence[int], choices: Sequence[BundleChoice], options: EvaluationOptions) -> EvaluationReport:
        own = set(numbers)
        queries, others = ([item for i, item in enumerate(pool) if (i in own) is right] for right in (True, False))
        return evaluate(Part(dataset, queries), choices, options, distractors=Part(dataset, others), on_progress=show)

    # The cross-encoder is the same in both separate bundles, so its costs are measured, or its pairs scored, only once.
    found = [
        ask(asked, separate[:1], replace(options, systems=("be", "ce", "sep-coop"))),
        ask(asked, [separate[1], joint], replace(options, systems=("be", "sep-coop", "joint-coop"))),
    ]
    if size == smallest:
        exhaustive = replace(options, systems=("ce",), max_pairs=MAX_PAIRS, cost_queries=0)
        found.append(ask(asked[: plan.exhaustive_queries], separate[:1], exhaustive))
    return found


ROWS = {
    ("ordinary", "be"): "BE, ordinary negatives",
    ("ordinary", "ce"): "CE, every pair of fewer queries",
    ("ordinary", "sep-coop"): "Sep+Coop, over that BE",
    ("hard", "be"): "BE, hard negatives",
    ("hard", "sep-coop"): "Sep+Coop, over that BE",
    ("joint", "be"): "Joint, its BE alone",
    ("joint", "joint-coop"): "Joint+Coop",
}
DIRECTIONS: tuple[Direction, ...] = ("image retrieval", "text retrieval")


def results(reports: Mapping[int, Sequence[EvaluationReport]]) -> list[dict[str, Any]]:
    """One row per system, k, pool and direction: R@1 in percent with its 95 % interval, and milliseconds per query."""
    rows: list[dict[str, Any]] = []
    for size, some in reports.items():
        quality = {q.variant: (q, report) for report in some for q in report.quality}
        cost = {(c.variant, c.direction): c for report in some for c in report.cost}
        for variant in dict.fromkeys([*quality, *(c for c, _ in cost)]):
            q, report = quality.get(variant, (None, some[0]))
            for direction in DIRECTIONS:
                queries = report.queries["en"][direction]
                rows.append(_row(size, variant, direction, q, queries if q else 0, cost.get((variant, direction))))
    order = list(ROWS)
    return sorted(rows, key=lambda row: (order.index((row["model"], row["system"])), row["k"] or 0, row["pool"], row["direction"]))


def _row(
    size: int, variant: SystemVariant, direction: Direction, quality: Quality | None, queries: int, cost: Cost | None
) -> dict[str, Any]:
    found = quality.figures[direction]["R@1"] if quality else None
    gain = quality.gain.get(f"R@1, {direction}") if quality else None
    return {
        "model": variant.bundle,
        "system": variant.system,
        "k": variant.k,
        "pool": size,
        "direction": direction,
        "queries": queries,
        "r1": None if found is None else [100 * value for value in (found.value, found.low, found.high)],
        "gain": None if gain is None else [100 * value for value in (gain.value, gain.low, gain.high)],
        "ms": None if cost is None else cost.total_ms.p50,
        "estimated": cost is not None and cost.queries == 0,
    }


def show_table(plan: StudyPlan, rows: Sequence[Mapping[str, Any]], k: int) -> Table:
    """A table of the rows with that k, a line per system."""
    table = Table(title=f"R@1 in percent [95 % interval] and ms per query (p50), {plan.queries} queries each way, Coop k = {k}")
    table.add_column("system", no_wrap=True)
    for size in plan.pools:
        for name in (f"{size:,}: text→image", "image→text", "ms"):
            table.add_column(name, justify="right", no_wrap=True)
    for (model, system), label in ROWS.items():
        cells = []
        for size in plan.pools:
            both = [
                next(
                    r
                    for r in rows
                    if (r["model"], r["system"], r["pool"], r["direction"]) == (model, system, size, d) and r["k"] in (None, k)
                )
                for d in DIRECTIONS
            ]
            cells += [percent(row["r1"]) for row in both]
            cells.append(milliseconds(both))
        table.add_row(label, *cells)
    return table


def percent(r1: Sequence[float] | None) -> str:
    return "skipped" if r1 is None else f"{r1[0]:.1f} [{r1[1]:.1f}, {r1[2]:.1f}]"


def milliseconds(rows: Sequence[Mapping[str, Any]]) -> str:
    known = [row["ms"] for row in rows if row["ms"] is not None]
    if not known:
        return "-"
    return f"{'~' if any(row['estimated'] for row in rows) else ''}{np.mean(known):,.1f}"


@contextmanager
def progress() -> Iterator[Say]:
    """Show progress: on a terminal in one line that changes, elsewhere in a new line every ten seconds."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("drawing scenes") as status:
            yield status.update
        return
    last_s = -10.0

    def log(text: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > 10:
            last_s = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    yield log


@click.command()
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("build/scenes"), show_default=True, help="Folder that keeps the runs."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the scenes and of all training.")
@click.option("--quick", is_flag=True, help="A smoke test: the figures mean nothing.")
@click.option("--json", "as_json", is_flag=True)
def main(work: Path, seed: int, quick: bool, as_json: bool) -> None:
    """Train and compare the four systems; see the top of this file."""
    plan = replace(QUICK if quick else StudyPlan(), seed=seed)
    stages: dict[str, float] = {}
    start = time.monotonic()
    with progress() as say:
        dataset = plan.dataset()
        bundles = train_all(plan, dataset, work, stages, say)
        reports: dict[int, list[EvaluationReport]] = {}
        for size in plan.pools:
            with timed(stages, f"evaluation, {size:,}"):
                reports[size] = evaluate_pool(plan, dataset, bundles, size, say)
    stages["all"] = time.monotonic() - start
    rows = results(reports)
    if as_json:
        seconds = {name: round(value, 1) for name, value in stages.items()}
        print(
            json.dumps(
                {"plan": asdict(plan), "machine": platform.machine(), "cores": os.cpu_count(), "seconds": seconds, "rows": rows}
            )
        )
        return
    console = Console(width=None if sys.stdout.isatty() else 170)
    for k in KS:
        console.print(show_table(plan, rows, k))
    for s in (s for report in reports[max(plan.pools)] for s in report.skipped):
        print(f"every pair of {max(plan.pools):,}: skipped, about {s.seconds / 60:.0f} min, {s.pairs_per_s:,.0f} pairs/s")
    print("seconds:", ", ".join(f"{name} {value:.0f}" for name, value in stages.items()))


if __name__ == "__main__":
    main()
