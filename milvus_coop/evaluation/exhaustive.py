"""The cross-encoder on every pair of a pool: what Coop saves, and what it is compared with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from milvus_coop.evaluation.corpus import Text
from milvus_coop.evaluation.metrics import ranks_of
from milvus_coop.evaluation.progress import OnProgress, Progress
from milvus_coop.evaluation.protocols import Pool
from milvus_coop.evaluation.systems import Entrant
from milvus_coop.evaluation.workbench import Shelf
from milvus_coop.tokens import unpack
from milvus_coop.types import Array, Kind

TEXTS_PER_CALL = 16
IMAGES_PER_CALL = 256
PROBE_TEXTS, PROBE_IMAGES = 16, 256
"""Pairs that are scored to estimate what all would cost."""


Ranks = Mapping[Kind, Mapping[int, tuple[int, ...]]]
"""Ranks of the right answers by what was searched for and query; whole rankings of 25,000 texts would fill the memory."""


class PairScorer:
    """Scores texts against stored image tokens, each text encoded once."""

    def __init__(self, entrant: Entrant, texts: Sequence[Text], shelf: Shelf) -> None:
        self._models = entrant.models
        self._texts = texts
        self._shelf = shelf

    def scores(self, texts: Sequence[int], images: Sequence[int], on_done: OnProgress | None = None) -> Array:
        """Match probabilities: float32 of shape (texts, images)."""
        tokens, scales = unpack([self._shelf.rows[n].payload for n in images], self._models.encoder.spec.tokens)
        result = np.empty((len(texts), len(images)), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_PER_CALL):
            some = texts[start : start + TEXTS_PER_CALL]
            side = self._models.encoder.encode_texts([self._texts[n].text for n in some]).text_side
            for left in range(0, len(images), IMAGES_PER_CALL):
                block = slice(left, left + IMAGES_PER_CALL)
                width = len(tokens[block])
                repeated = {name: np.repeat(array, width, axis=0) for name, array in side.items()}
                pairs = (np.tile(tokens[block], (len(some), 1, 1)), np.tile(scales[block], (len(some), 1)))
                values = self._models.reranker.score(repeated, *pairs)
                result[start : start + len(some), block] = values.reshape(len(some), width)
            if on_done is not None:
                on_done(Progress("", start + len(some), len(texts)))
        return result

    def probe(self, texts: Sequence[int], images: Sequence[int]) -> float:
        """Pairs per second, measured on a few after as many to warm up."""
        texts, images = texts[:PROBE_TEXTS], images[:PROBE_IMAGES]
        self.scores(texts, images)
        start = time.perf_counter()
        self.scores(texts, images)
        return len(texts) * len(images) / (time.perf_counter() - start)


def rank_all(scorer: PairScorer, pool: Pool, name: str, on_progress: OnProgress) -> Ranks:
    """Score every query of a pool against everything, both directions; pairs that both need are scored once.

    Equal scores stand in the order of the data.
    """
    queries, askers = list(pool.relevant_images), list(pool.relevant_texts)
    others = [number for number in pool.texts if number not in pool.relevant_images]

    def tell(progress: Progress) -> None:
        on_progress(Progress(f"every pair, {name}", progress.done, len(queries)))

    main = scorer.scores(queries, pool.images, tell)
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
    """One row of scores per query, one column per item."""
    columns = np.array(items)
    return {q: ranks_of(columns[np.argsort(-row, kind="stable")], relevant[q]) for q, row in zip(queries, scores, strict=True)}


def _columns(images: Sequence[int], wanted: Sequence[int]) -> list[int]:
    position = {number: column for column, number in enumerate(images)}
    return [position[number] for number in wanted]
