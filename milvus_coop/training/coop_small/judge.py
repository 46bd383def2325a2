"""Offline figures for decisions: retrieval within a set of pictures, by the bi-encoder and by Coop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.layout import EMBEDDING
from milvus_coop.training.coop_small.pipeline import Trained
from milvus_coop.training.coop_small.train_cross import PairSource, score_pairs
from milvus_coop.training.metrics import Recalls, recalls
from milvus_coop.types import Array

COOP_K = 20


@dataclass(frozen=True)
class Verdict:
    """Hits of every query; `text` is text -> image, `image` is image -> text."""

    be_text: Recalls
    be_image: Recalls
    coop_text: Recalls
    coop_image: Recalls

    def gain(self) -> tuple[float, float]:
        """Coop's R@1 minus the bi-encoder's, pooled over both directions, in points, with its paired standard error."""
        pairs = [(self.coop_text, self.be_text), (self.coop_image, self.be_image)]
        change = np.concatenate([100.0 * (new.hits[:, 0].astype(float) - old.hits[:, 0]) for new, old in pairs])
        return float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change)))


def joined(verdicts: list[Verdict]) -> Verdict:
    """All queries of several folds as one."""
    columns = ("be_text", "be_image", "coop_text", "coop_image")
    return Verdict(*(Recalls(np.concatenate([getattr(item, name).hits for item in verdicts])) for name in columns))


def judge(dataset: Dataset, trained: Trained) -> Verdict:
    """Search within `dataset`: every distinct caption against all pictures, every picture against all captions."""
    tokens = trained.tokens(dataset)
    source = PairSource(dataset, tokens)
    queries, relevant = caption_queries(dataset)
    cosines = dataset.texts.sentences[dataset.caption_rows[queries]] @ tokens[:, EMBEDDING].reshape(len(dataset), -1).T

    def by_coop(scores: Array, of_pair: Callable[[Array, Array], Array]) -> Array:
        """Replace each row's first COOP_K scores by the cross-encoder's, above all others."""
        k = min(COOP_K, scores.shape[1] - 1)
        best = np.argpartition(-scores, k, axis=1)[:, :k]
        second = of_pair(np.repeat(np.arange(len(scores)), k), best.ravel()).reshape(best.shape)
        result: Array = scores - scores.max() + second.min() - 1.0
        np.put_along_axis(result, best, second, 1)
        return result

    def score(pictures: Array, captions: Array) -> Array:
        return score_pairs(trained.cross_encoder, source, pictures, queries[captions])

    text = by_coop(cosines, lambda row, column: score(column, row))
    image = by_coop(cosines.T, score)
    return Verdict(*judge_cosines(cosines, relevant), recalls(text, relevant), recalls(image, relevant.T))


def judge_embeddings(dataset: Dataset, vectors: Array) -> tuple[Recalls, Recalls]:
    """The bi-encoder alone, both directions; `vectors` unit (n, 384)."""
    queries, relevant = caption_queries(dataset)
    return judge_cosines(dataset.texts.sentences[dataset.caption_rows[queries]] @ vectors.T, relevant)


def judge_cosines(cosines: Array, relevant: Array) -> tuple[Recalls, Recalls]:
    """Text to image and image to text, from (captions, pictures)."""
    return recalls(cosines, relevant), recalls(cosines.T, relevant.T)


def caption_queries(dataset: Dataset) -> tuple[Array, Array]:
    """Positions of one picture per distinct caption (q,), and which pictures it names: bool (q, n)."""
    labels, first = np.unique(dataset.labels, return_index=True)
    return first, labels[:, None] == dataset.labels[None, :]
