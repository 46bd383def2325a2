"""The steps of the recipe in order, each a function of the workspace, and the rule by which a finished one is skipped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache

from milvus_coop.datasets.items import Split
from milvus_coop.training.coop_small.backbone import image_spec
from milvus_coop.training.coop_small.card import write_card
from milvus_coop.training.coop_small.class_names import read_classes
from milvus_coop.training.coop_small.cutouts import write_cutouts
from milvus_coop.training.coop_small.dataset import Dataset, load_dataset, split_test, trainable_records
from milvus_coop.training.coop_small.evaluate import evaluate_bundle
from milvus_coop.training.coop_small.export import check_bundle, time_pairs, write_bundle
from milvus_coop.training.coop_small.features import extract_features, fitted_compressor
from milvus_coop.training.coop_small.fetch import fetch_packages
from milvus_coop.training.coop_small.figures import cross_validate, leave_styles_out
from milvus_coop.training.coop_small.figures import describe as describe_verdict
from milvus_coop.training.coop_small.judge import judge as judge_model
from milvus_coop.training.coop_small.judge_scenes import judge_scenes
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
from milvus_coop.training.coop_small.scene_set import SceneSet, load_scene_set, scene_phrases
from milvus_coop.training.coop_small.scenes import LabelledCutouts, SceneReader, load_scenes, open_scenes, save_scenes, scene_names
from milvus_coop.training.coop_small.sources import read_sources
from milvus_coop.training.coop_small.split import part_of
from milvus_coop.training.coop_small.tags import class_texts
from milvus_coop.training.coop_small.text_features import TextTable, encode_texts
from milvus_coop.training.coop_small.towers import Tagger
from milvus_coop.training.coop_small.workspace import Workspace

logger = logging.getLogger(__name__)
RECIPE = Recipe()
VERSION = "1.1.0"
_SCENE_EPOCHS = 3
_SCENES_PER_EPOCH = 1250
_JUDGED_SCENES: dict[Split, int] = {"dev": 800, "test": 1000}


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
    fitted_compressor(workspace.features / RECIPE.variant)


def cutouts(workspace: Workspace) -> None:
    """List the cut-outs that composite scenes are made of, held-out stamps and their captions left out (a minute)."""
    write_cutouts(trainable_records(workspace, RECIPE.variant), workspace.raw, workspace.folder("cutouts"))


def scenes(workspace: Workspace) -> None:
    """Draw 15,000 composite scenes for training and 1,800 for judging, and run the frozen towers over them (10 minutes).

    The labels of a training scene are all of one part, so that the head that never saw that part embeds them.
    """
    cutout_list = workspace.folder("cutouts") / "cutouts.jsonl"
    folder = workspace.folder("scenes")
    tagger = frozen_tagger(workspace, RECIPE.variant, TextTable.load(workspace.features / "texts.npz"))
    reader = SceneReader(workspace.raw, RECIPE.variant, tagger)
    every = LabelledCutouts(cutout_list)
    for split in _JUDGED_SCENES:
        source = open_scenes(every, _JUDGED_SCENES, image_spec(RECIPE.variant).size)
        save_scenes(folder, split, *reader.read(source, source.items(split)))
    for part in range(RECIPE.embedding.parts):
        own = [label for label in every.labels("train") if part_of(label, RECIPE.embedding.parts) == part]
        counts: dict[Split, int] = {"train": _SCENES_PER_EPOCH}
        source = open_scenes(LabelledCutouts(cutout_list, own), counts, image_spec(RECIPE.variant).size, seed=part + 1)
        for epoch in range(_SCENE_EPOCHS):
            save_scenes(folder, f"train-{part}-{epoch}", *reader.read(source, source.items("train", epoch=epoch), part))
    texts = [
        said.text
        for name in scene_names(folder, "")
        for said in scene_phrases(load_scenes(folder, name)[0], varied=name.startswith("train"))
    ]
    encode_texts(workspace.raw, texts).save(workspace.features / "scene_texts.npz")


def train(workspace: Workspace) -> None:
    """Train on everything but the held-out stamps (6 minutes on two cores)."""
    trainable, _, tagger = _load(workspace)
    chosen = trainable.where(lambda record: record.source in training_sources())
    save_trained(train_model(trainable.select(chosen), tagger, RECIPE, _scenes(workspace, "train", tagger)), workspace.models)


def judge_composites(workspace: Workspace) -> None:
    """Search the composite scenes of dev and test, per kind of caption, labels seen and unseen (2 minutes)."""
    _, _, tagger = _load(workspace)
    trained = load_trained(workspace.models, tagger)
    for split in _JUDGED_SCENES:
        found = _scenes(workspace, split, tagger)
        workspace.write(f"{split}-scenes.json", judge_scenes(found, trained.tokens(found), trained.cross_encoder).figures())


def judge(workspace: Workspace) -> None:
    """Cross-validate on the training stamps and leave styles out (9 minutes on two cores)."""
    trainable, everything, tagger = _load(workspace)
    scenes = _scenes(workspace, "train", tagger)
    figures = cross_validate(trainable, tagger, RECIPE, scenes)
    figures.update(leave_styles_out(trainable, everything, RECIPE, scenes))
    workspace.write("judge.json", figures)


def export(workspace: Workspace) -> None:
    """Write the bundle's graphs and weights, and compare them with PyTorch (a minute)."""
    texts = TextTable.load(workspace.features / "texts.npz")
    tagger = frozen_tagger(workspace, RECIPE.variant, texts)
    models = assemble(workspace.raw, RECIPE.variant, tagger, load_trained(workspace.models, tagger))
    lineage = {"recipe": asdict(RECIPE), "sources": sorted(training_sources())}
    write_bundle(workspace.bundle, workspace.raw, RECIPE.variant, models, version=VERSION, lineage=lineage)
    sample = [record for record in read_records(workspace.root / "records.jsonl") if record.source == "stamps"][::12]
    pictures = [on_background(open_picture(record, workspace.raw)) for record in sample]
    outputs = check_bundle(workspace.bundle, pictures, [record.caption for record in sample], models)
    _, everything, _ = _load(workspace)
    float32 = describe_verdict(judge_model(split_test(everything)[1], load_trained(workspace.models, tagger)))
    workspace.write("parity.json", {"outputs": outputs, "float32": float32, "ce_ms": time_pairs(workspace.bundle)})


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
    step.__name__: step
    for step in (fetch, records, languages, features, cutouts, scenes, train, export, judge, judge_composites, evaluate, card)
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


def _scenes(workspace: Workspace, split: Split, tagger: Tagger) -> SceneSet:
    """The scenes of a split with all that the trainings read."""
    folder = workspace.folder("scenes")
    texts = TextTable.load(workspace.features / "scene_texts.npz")
    return load_scene_set(folder, scene_names(folder, split), texts, tagger.basis, workspace.raw, varied=split == "train")


@lru_cache(maxsize=1)
def _load(workspace: Workspace) -> tuple[Dataset, Dataset, Tagger]:
    """(what may be trained on, everything, the tagger)."""
    texts = TextTable.load(workspace.features / "texts.npz")
    tagger = frozen_tagger(workspace, RECIPE.variant, texts)
    everything = load_dataset(workspace, RECIPE.variant, tagger, texts)
    return split_test(everything)[0], everything, tagger
