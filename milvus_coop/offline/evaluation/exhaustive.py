"""The cross-encoder on every pair of a pool: the work that Coop saves, and the quality that Coop is compared with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from milvus_coop.offline.evaluation.corpus import Text
from milvus_coop.offline.evaluation.metrics import ranks_of
from milvus_coop.offline.evaluation.progress import EvaluationProgress, OnProgress
from milvus_coop.offline.evaluation.protocols import QueryPool
from milvus_coop.offline.evaluation.systems import OpenedBundle
from milvus_coop.offline.evaluation.workbench import Shelf
from milvus_coop.search.contents import content_reader
from milvus_coop.types import Array, Kind

TEXTS_PER_CALL = 16
IMAGES_PER_CALL = 256
BYTES_PER_CALL = 128 * 2**20
"""Maximum size of large token files or pixels in memory, repeated for every text."""
PROBE_TEXTS, PROBE_IMAGES = 16, 256
"""Number of pairs that are scored to estimate the cost of all pairs."""


Ranks = Mapping[Kind, Mapping[int, tuple[int, ...]]]
"""Ranks of the right answers, by the kind searched for and by query. Whole rankings of 25,000 texts would fill the memory."""


class PairScorer:
    """Scores texts against stored image tokens. Each text is encoded once."""

    def __init__(self, opened: OpenedBundle, texts: Sequence[Text], shelf: Shelf) -> None:
        self._models = opened.models
        self._timeout_s = opened.settings.timeout_s
        self._texts = texts
        self._shelf = shelf
        self._reader = content_reader(self._models.encoder, "image", shelf.tokens)
        n_bytes = TEXTS_PER_CALL * self._reader.n_bytes
        self._images_per_call = min(IMAGES_PER_CALL, max(1, BYTES_PER_CALL // n_bytes)) if n_bytes else IMAGES_PER_CALL

    def scores(self, texts: Sequence[int], images: Sequence[int], on_done: OnProgress | None = None) -> Array:
        """Match probabilities, or logits for bundles whose authors rank by logits: float32 of shape (texts, images).

        Raises:
            BackendError: an image cannot be read.
        """
        result = np.empty((len(texts), len(images)), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_PER_CALL):
            some = texts[start : start + TEXTS_PER_CALL]
            side = self._models.encoder.text_side(self._models.encoder.tokenise([self._texts[n].text for n in some]))
            for left in range(0, len(images), self._images_per_call):
                block = images[left : left + self._images_per_call]
                pairs = self._models.reranker.score_matrix(side, self._shelf.read(self._reader, block, self._timeout_s))
                values = pairs.logit if self._models.encoder.spec.score == "sum" else pairs.probability
                result[start : start + len(some), left : left + len(block)] = values
            if on_done is not None:
                on_done(EvaluationProgress("", start + len(some), len(texts)))
        return result

    def probe(self, texts: Sequence[int], images: Sequence[int]) -> float:
        """Pairs per second, measured on a few pairs after a warm-up on as many."""
        texts, images = texts[:PROBE_TEXTS], images[:PROBE_IMAGES]
        self.scores(texts, images)
        start = time.perf_counter()
        self.scores(texts, images)
        return len(texts) * len(images) / (time.perf_counter() - start)


def rank_all(scorer: PairScorer, pool: QueryPool, name: str, on_progress: OnProgress) -> Ranks:
    """Score every query of a pool against every item, in both directions. A pair that both directions need is scored once.

    Items with equal scores keep the order of the data.
    """
    queries, askers = list(pool.relevant_images), list(pool.relevant_texts)
    others = [number for number in pool.texts if number not in pool.relevant_images]

    def show(progress: EvaluationProgress) -> None:
        on_progress(EvaluationProgress(f"every pair, {name}", progress.done, len(queries)))

    main = scorer.scores(queries, pool.images, show)
    by_text = main[:, _columns(pool.images, askers)]
    if others:
        by_text = np.concatenate([by_text, scorer.scores(others, askers)])
    return {
        "image": _ranks(queries, main, pool.images, pool.relevant_images),
        "text": _ranks(askers, by_text.T, (*queries, *others), pool.relevant_texts),
    }


def _ranks(
    queries: Sequence[int], scores: Array, items: Sequence[int], relevant: Mapping[int, frozenset[int]]
) -> dict[int, tuple[int, ...]]:
    """Ranks of the right answers, from one row of scores per query and one column per item."""
    columns = np.array(items)
    return {q: ranks_of(columns[np.argsort(-row, kind="stable")], relevant[q]) for q, row in zip(queries, scores, strict=True)}


def _columns(images: Sequence[int], wanted: Sequence[int]) -> list[int]:
    position = {number: column for column, number in enumerate(images)}
    return [position[number] for number in wanted]
