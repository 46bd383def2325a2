"""The steps of the recipe in order, each a function of the workspace and the base bundle."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from milvus_coop.bundle import Bundle
from milvus_coop.training.coop_small.fetch import fetch_packages
from milvus_coop.training.coop_small.languages import LIST, write_stamps
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.coop_small_multilingual.card import write_card
from milvus_coop.training.coop_small_multilingual.distil import Corpus, Recipe, fit_word_basis, train_student
from milvus_coop.training.coop_small_multilingual.evaluate import evaluate_languages
from milvus_coop.training.coop_small_multilingual.export import TEXT_SPEC, check_bundle, write_bundle
from milvus_coop.training.coop_small_multilingual.packages import PACKAGES
from milvus_coop.training.coop_small_multilingual.parallel import (
    HeldOut,
    Pair,
    captions_of,
    count_sources,
    load_pairs,
    read_pairs,
    read_stamps,
    write_pairs,
)
from milvus_coop.training.coop_small_multilingual.student import Student
from milvus_coop.training.coop_small_multilingual.teacher import Targets, ask_teacher
from milvus_coop.training.coop_small_multilingual.vocabulary import load_tokenizer, piece_ids, train_tokenizer

logger = logging.getLogger(__name__)
RECIPE = Recipe()
Step = Callable[[Workspace, Bundle], None]


def fetch(workspace: Workspace, _base: Bundle) -> None:
    """Download and unpack the packages (150 MB, half a minute)."""
    fetch_packages(workspace, PACKAGES)


def languages(workspace: Workspace, _base: Bundle) -> None:
    """Write the stamps with their captions in all languages (15 s)."""
    write_stamps(workspace.raw, workspace.root)


def pairs(workspace: Workspace, _base: Bundle) -> None:
    """List the parallel texts, without the captions of the dev and test stamps (half a minute)."""
    rows = _stamps(workspace)
    found = read_pairs(workspace.raw, PACKAGES, rows, HeldOut(captions_of(rows, ["dev", "test"])))
    write_pairs(_pairs(workspace), found)
    workspace.write("pairs.json", count_sources(found))


def vocabulary(workspace: Workspace, _base: Bundle) -> None:
    """Train the tokenizer on all texts."""
    train_tokenizer((pair.text for pair in load_pairs(_pairs(workspace))), RECIPE.vocabulary).save(str(_tokenizer(workspace)))


def teacher(workspace: Workspace, base: Bundle) -> None:
    """Encode the English texts with the base bundle."""
    texts = [pair.english for pair in load_pairs(_pairs(workspace))]
    ask_teacher(base, texts, torch.get_num_threads()).save(_targets(workspace))


def train(workspace: Workspace, _base: Bundle) -> None:
    """Distil the student."""
    student = fit(workspace, load_pairs(_pairs(workspace)))
    save_file(student.state_dict(), workspace.models / "student.safetensors")


def export(workspace: Workspace, base: Bundle) -> None:
    """Write the bundle and compare it with PyTorch."""
    targets = Targets.load(_targets(workspace))
    tokenizer = load_tokenizer(_tokenizer(workspace))
    weights = load_file(workspace.models / "student.safetensors")
    student = Student(tokenizer.get_vocab_size(), **_shape(targets))
    student.load_state_dict(weights)
    lineage = {"recipe": asdict(RECIPE), "pairs": workspace.read("pairs.json"), "languages": _languages(workspace)}
    write_bundle(workspace.bundle, base, student.eval(), tokenizer, lineage)
    texts = captions_of(_stamps(workspace), ["dev"])[::50]
    workspace.write("parity.json", check_bundle(workspace.bundle, student, texts))


def baseline(workspace: Workspace, base: Bundle) -> None:
    """Search the held-out stamps in every language with the base bundle."""
    workspace.write("baseline.json", _figures(workspace, base.folder, "baseline"))


def evaluate(workspace: Workspace, _base: Bundle) -> None:
    """Search the held-out stamps in every language with the new bundle."""
    workspace.write("evaluate.json", _figures(workspace, workspace.bundle, "test"))


def card(workspace: Workspace, base: Bundle) -> None:
    """Write the model card from the figures of the steps before."""
    write_card(workspace, base)


STEPS: dict[str, Step] = {
    step.__name__: step for step in (fetch, languages, pairs, vocabulary, teacher, train, export, baseline, evaluate, card)
}
ALWAYS = frozenset({"card"})


def run_step(workspace: Workspace, base: Bundle, name: str, *, force: bool = False) -> None:
    """Run one step unless it is done."""
    if workspace.is_done(name) and not force and name not in ALWAYS:
        logger.info("%s: done before", name)
        return
    start = time.monotonic()
    STEPS[name](workspace, base)
    seconds = time.monotonic() - start
    workspace.note_cost(name, seconds)
    workspace.mark_done(name)
    logger.info("%s: %.0f s", name, seconds)


def fit(workspace: Workspace, texts: Sequence[Pair], recipe: Recipe = RECIPE) -> Student:
    """A student of these pairs, with the text tokens' basis."""
    targets = Targets.load(_targets(workspace))
    pieces = piece_ids(load_tokenizer(_tokenizer(workspace)), [pair.text for pair in texts], TEXT_SPEC.max_length)
    corpus = Corpus.of(pieces, [pair.source for pair in texts], targets.rows([pair.english for pair in texts]))
    student = train_student(corpus, targets.sentences, recipe, targets.words.shape[1])
    student.word_basis.copy_(torch.from_numpy(fit_word_basis(targets.sentences, targets.words)))
    return student


def _pairs(workspace: Workspace) -> Path:
    return workspace.root / "pairs.jsonl"


def _figures(workspace: Workspace, bundle: Path, folder: str) -> dict[str, Any]:
    rows = [row for row in _stamps(workspace) if row["split"] == "test"]
    return evaluate_languages(rows, workspace.root, workspace.folder(folder), bundle)


def _stamps(workspace: Workspace) -> list[dict[str, Any]]:
    return read_stamps(workspace.root / LIST)


def _languages(workspace: Workspace) -> list[str]:
    return sorted({language for row in _stamps(workspace) for language in row["captions"]})


def _shape(targets: Targets) -> dict[str, int]:
    dims = {"dim": targets.sentences.shape[1], "token_dim": targets.words.shape[1]}
    return {**dims, "width": RECIPE.width, "hidden": RECIPE.hidden}


def _tokenizer(workspace: Workspace) -> Path:
    return workspace.root / "tokenizer.json"


def _targets(workspace: Workspace) -> Path:
    return workspace.features / "targets.npz"
