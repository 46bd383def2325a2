"""The figures that decisions rest on and that the card reports: cross-validation, and styles never seen in training."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from milvus_coop.training.coop_small.dataset import Dataset, stamp_folds
from milvus_coop.training.coop_small.judge import Verdict, joined, judge, judge_embeddings
from milvus_coop.training.coop_small.pipeline import Recipe, train_model, training_sources
from milvus_coop.training.coop_small.records import normalise
from milvus_coop.training.coop_small.scene_set import SceneSet
from milvus_coop.training.coop_small.towers import Tagger
from milvus_coop.training.coop_small.train_embedding import EmbeddingRecipe, embeddings, train_embedding, train_head
from milvus_coop.training.metrics import KS, Recalls

logger = logging.getLogger(__name__)
FOLDS = 3
PROTOTYPE_SOURCES = frozenset({"stamps", "clipart", "noto"})
"""What the prototype was trained on: stamps, clip art, one emoji vendor."""
PROTOTYPE = EmbeddingRecipe(epochs=20, hidden=1024, source_weights={})
JUDGED_SET = "openmoji"
Figures = dict[str, Any]


def cross_validate(trainable: Dataset, tagger: Tagger, recipe: Recipe, scenes: SceneSet | None = None) -> Figures:
    """Three folds of the stamps; everything else is in the training of each, without the fold's captions and copies."""
    verdicts = []
    for held_out in stamp_folds(trainable, FOLDS):
        train = _of(trainable.train_without(held_out), training_sources())
        verdicts.append(judge(held_out, train_model(train, tagger, recipe, scenes and scenes_without(scenes, held_out))))
        logger.info("fold: %s", describe(verdicts[-1]))
    return {"cross-validation": describe(joined(verdicts))}


def scenes_without(scenes: SceneSet, held_out: Dataset) -> SceneSet:
    """The scenes in whose groups no label is a held-out caption."""
    captions = {normalise(record.caption) for record in held_out.records}
    kept = [
        group for group in scenes.groups if all(normalise(name) not in captions for i in group for name in scenes.scenes[i].labels)
    ]
    return scenes.select(np.concatenate(kept))


def leave_styles_out(trainable: Dataset, everything: Dataset, recipe: Recipe, scenes: SceneSet | None = None) -> Figures:
    """The bi-encoder on an emoji vendor that is never trained on, and on clip art when that is left out of training.

    The scenes show neither style. Beside it the prototype: one head plus the tag vector, trained on stamps, clip art and one emoji
    vendor.
    """
    figures: Figures = {}
    for style in (JUDGED_SET, "clipart"):
        judged = _of(everything, {style})
        head = train_embedding(_of(trainable, training_sources() - {style}), recipe.embedding, recipe.seed, scenes).head
        figures[f"{style}, ours"] = _be_figures(judge_embeddings(judged, embeddings(head, judged)))
        head = train_head(_of(trainable, PROTOTYPE_SOURCES - {style}), PROTOTYPE, recipe.seed)
        figures[f"{style}, prototype"] = _be_figures(judge_embeddings(judged, embeddings(head, judged)))
        logger.info("%s: %s", style, figures)
    return figures


def describe(verdict: Verdict) -> Figures:
    """Recalls in percent with standard errors of R@1, and Coop's gain."""
    gain, error = verdict.gain()
    names = ("be_text", "be_image", "coop_text", "coop_image")
    return {**{name: recall_figures(getattr(verdict, name)) for name in names}, "gain": round(gain, 2), "gain_se": round(error, 2)}


def _be_figures(found: tuple[Recalls, Recalls]) -> Figures:
    return {"be_text": recall_figures(found[0]), "be_image": recall_figures(found[1])}


def recall_figures(found: Recalls) -> list[float]:
    """R@1, R@5, R@10 and the standard error of R@1."""
    return [*(round(found.percent(k), 1) for k in KS), round(found.error(1), 1)]


def _of(dataset: Dataset, sources: frozenset[str] | set[str]) -> Dataset:
    return dataset.select(dataset.where(lambda record: record.source in sources))
