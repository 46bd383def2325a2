"""Offline figures for decisions: retrieval within a set of pictures, by the bi-encoder and by Coop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.pipeline import Trained
from milvus_coop.training.coop_small.train_cross import PairSource, score_matrix, stored_tokens
from milvus_coop.training.metrics import Recalls, recalls, rerank
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
    tokens = stored_tokens(trained.embedder(dataset), dataset.rows)
    first, relevant = caption_queries(dataset)
    embeddings = tokens[:, :6].reshape(len(dataset), -1)
    cosines = dataset.texts.sentences[dataset.caption_rows[first]] @ embeddings.T
    basis = trained.cross_encoder.basis
    scores = score_matrix(trained.cross_encoder, PairSource(dataset, tokens), first, basis)
    return Verdict(
        recalls(cosines, relevant),
        recalls(cosines.T, relevant.T),
        recalls(rerank(cosines, scores, COOP_K), relevant),
        recalls(rerank(cosines.T, scores.T, COOP_K), relevant.T),
    )


def caption_queries(dataset: Dataset) -> tuple[Array, Array]:
    """Positions of one picture per distinct caption (q,), and which pictures it names: bool (q, n)."""
    labels, first = np.unique(dataset.labels, return_index=True)
    return first, labels[:, None] == dataset.labels[None, :]
