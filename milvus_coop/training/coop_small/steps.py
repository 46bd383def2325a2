"""The steps of the recipe in order, each a function of the workspace, and the rule by which a finished one is skipped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache

from milvus_coop.training.coop_small.card import write_card
from milvus_coop.training.coop_small.class_names import read_classes
from milvus_coop.training.coop_small.dataset import Dataset, load_dataset, split_test
from milvus_coop.training.coop_small.evaluate import evaluate_bundle
from milvus_coop.training.coop_small.export import check_bundle, write_bundle
from milvus_coop.training.coop_small.features import extract_features
from milvus_coop.training.coop_small.fetch import fetch_packages
from milvus_coop.training.coop_small.figures import cross_validate, leave_styles_out
from milvus_coop.training.coop_small.figures import describe as describe_verdict
from milvus_coop.training.coop_small.judge import judge as judge_model
from milvus_coop.training.coop_small.languages import write_stamps
from milvus_coop.training.coop_small.pictures import is_usable, on_background, open_picture
from milvus_coop.training.coop_small.pipeline import (
    Recipe,
    assemble,
    frozen_tagger,
    load_trained,
    save_trained,
    train_model,
    training_sources,
)
from milvus_coop.training.coop_small.records import read_records, write_records
from milvus_coop.training.coop_small.sources import read_sources
from milvus_coop.training.coop_small.tags import class_texts
from milvus_coop.training.coop_small.text_features import TextTable, encode_texts
from milvus_coop.training.coop_small.towers import Tagger
from milvus_coop.training.coop_small.workspace import Workspace

logger = logging.getLogger(__name__)
RECIPE = Recipe()
VERSION = "1.0.0"


def fetch(workspace: Workspace) -> None:
    """Download and unpack the packages (500 MB, about a minute)."""
    fetch_packages(workspace)


def records(workspace: Workspace) -> None:
    """List every captioned picture (20,700 of them, 20 s)."""
    found = [record for record in read_sources(workspace.raw) if is_usable(record, workspace.raw)]
    write_records(workspace.root / "records.jsonl", found)


def languages(workspace: Workspace) -> None:
    """List the stamps with their captions in 77 languages, as a data set of its own (15 s)."""
    write_stamps(workspace.raw, workspace.folder("stamps"))


def features(workspace: Workspace) -> None:
    """Run the frozen towers over all pictures and texts (6 to 14 minutes on two cores)."""
    texts = [text for record in read_records(workspace.root / "records.jsonl") for text in record.texts]
    texts += class_texts(read_classes(workspace.raw))
    encode_texts(workspace.raw, texts).save(workspace.features / "texts.npz")
    extract_features(workspace, RECIPE.variant)


def train(workspace: Workspace) -> None:
    """Train on everything but the held-out stamps (3 minutes on two cores)."""
    trainable, _, tagger = _load(workspace)
    chosen = trainable.where(lambda record: record.source in training_sources())
    save_trained(train_model(trainable.select(chosen), tagger, RECIPE), workspace.models)


def judge(workspace: Workspace) -> None:
    """Cross-validate on the training stamps and leave styles out (9 minutes on two cores)."""
    trainable, everything, tagger = _load(workspace)
    figures = cross_validate(trainable, tagger, RECIPE)
    figures.update(leave_styles_out(trainable, everything, RECIPE))
    workspace.write("judge.json", figures)


def export(workspace: Workspace) -> None:
    """Write the bundle's graphs and weights, and compare them with PyTorch (a minute)."""
    texts = TextTable.load(workspace.features / "texts.npz")
    tagger = frozen_tagger(workspace.raw, RECIPE.variant, texts)
    models = assemble(workspace.raw, RECIPE.variant, tagger, load_trained(workspace.models, tagger))
    lineage = {"recipe": asdict(RECIPE), "sources": sorted(training_sources())}
    write_bundle(workspace.bundle, workspace.raw, RECIPE.variant, models, version=VERSION, lineage=lineage)
    sample = [record for record in read_records(workspace.root / "records.jsonl") if record.source == "stamps"][::12]
    pictures = [on_background(open_picture(record, workspace.raw)) for record in sample]
    outputs = check_bundle(workspace.bundle, pictures, [record.caption for record in sample], models)
    _, everything, _ = _load(workspace)
    float32 = describe_verdict(judge_model(split_test(everything)[1], load_trained(workspace.models, tagger)))
    workspace.write("parity.json", {"outputs": outputs, "float32": float32})


def evaluate(workspace: Workspace) -> None:
    """Search the held-out stamps with the bundle, through Milvus Lite and ONNX Runtime (a minute)."""
    report = evaluate_bundle(workspace, workspace.bundle)
    for line in report.lines():
        logger.info("%s", line)
    workspace.write("evaluate.json", report.figures())


def card(workspace: Workspace) -> None:
    """Write the model card from the figures of the steps before."""
    write_card(workspace)


STEPS: dict[str, Callable[[Workspace], None]] = {
    step.__name__: step for step in (fetch, records, languages, features, train, export, judge, evaluate, card)
}
ALWAYS = frozenset({"evaluate", "card"})
"""Cheap, and about what lies in the package now: run whenever asked."""


def run_step(workspace: Workspace, name: str, *, force: bool = False) -> None:
    """Run one step unless it is done, and the data steps before `evaluate` where they are missing."""
    if name == "evaluate":
        for needed in ("fetch", "records"):
            run_step(workspace, needed)
    if workspace.is_done(name) and not force and name not in ALWAYS:
        logger.info("%s: done before", name)
        return
    start = time.monotonic()
    STEPS[name](workspace)
    seconds = time.monotonic() - start
    workspace.note_cost(name, seconds)
    workspace.mark_done(name)
    logger.info("%s: %.0f s", name, seconds)


@lru_cache(maxsize=1)
def _load(workspace: Workspace) -> tuple[Dataset, Dataset, Tagger]:
    """(what may be trained on, everything, the tagger)."""
    texts = TextTable.load(workspace.features / "texts.npz")
    tagger = frozen_tagger(workspace.raw, RECIPE.variant, texts)
    everything = load_dataset(workspace, RECIPE.variant, tagger, texts)
    return split_test(everything)[0], everything, tagger
