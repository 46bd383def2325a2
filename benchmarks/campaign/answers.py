"""Judges one answer of a search against the true scores, without any index: its hits, their order, and what it says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.campaign.history import Call
from benchmarks.campaign.timeline import Version
from benchmarks.campaign.truth import Truth
from milvus_coop.types import Array

TOLERANCE = 1e-4
"""Difference between two runs of the same graph, by ONNX Runtime here and in Triton, and of Milvus' float32 sums."""

Problem = tuple[str, str]


class Expected:
    """The lowest and the highest true scores that each item can have at the time of a search."""

    def __init__(self, truth: Truth, text: str, possible: Mapping[str, frozenset[Version]]) -> None:
        cosines, probabilities = truth.scores(text)
        self.place = {id: i for i, id in enumerate(possible)}
        """The place of each item in the arrays below."""
        self.scores: list[list[tuple[float, float]]] = [
            [(float(cosines[row]), float(probabilities[row])) for row in (truth.row(v) for v in versions if v is not None)]
            for versions in possible.values()
        ]
        """Cosine and match probability of each possible version of each item."""
        self.certain = np.array([None not in versions for versions in possible.values()], bool)
        self.cosine = _bounds([[cosine for cosine, _ in each] for each in self.scores])
        self.probability = _bounds([[probability for _, probability in each] for each in self.scores])

    def surely_retrieved(self, k: int) -> Array:
        """Items that are there and that fewer than k others can precede."""
        low, high = self.cosine
        others = _number_of(high, low - TOLERANCE) - 1
        return self.certain & (others < k)

    def perhaps_retrieved(self, k: int) -> Array:
        """Items that fewer than k others precede for certain."""
        low, high = self.cosine
        return _number_of(np.where(self.certain, low, -np.inf), high + TOLERANCE) < k

    def surely_hits(self, k: int, limit: int, *, reranked: bool) -> Array:
        """Items that must be among the first `limit` hits."""
        low, high = self.probability if reranked else self.cosine
        rivals = np.where(self.perhaps_retrieved(k), high, -np.inf)
        return self.surely_retrieved(k) & (_number_of(rivals, low - TOLERANCE) - 1 < limit)


def check_answer(call: Call, expected: Expected) -> list[Problem]:
    """All problems of an answer; empty if it is right."""
    asked, answer = call.arguments, call.answer
    hits = answer["hits"]
    return [
        *_hits(hits, expected),
        *_order(hits),
        *_honesty(answer, int(asked["k"]), expected),
        *_complete(answer, int(asked["k"]), int(asked["limit"]), expected),
    ]


def _hits(hits: Sequence[Mapping[str, Any]], expected: Expected) -> Iterator[Problem]:
    if twice := [id for id, n in Counter(hit["id"] for hit in hits).items() if n > 1]:
        yield "duplicate", f"hits come twice: {twice[:3]}"
    for hit in hits:
        place = expected.place.get(hit["id"])
        if place is None:
            yield "ghost", f"the hit {hit['id']} is not in the collection"
        elif not any(_is_right(hit, cosine, probability) for cosine, probability in expected.scores[place]):
            yield "wrong score", f"the hit {hit['id']} has {hit['be_score']}, {hit['ce_score']}; true: {expected.scores[place]}"


def _is_right(hit: Mapping[str, Any], cosine: float, probability: float) -> bool:
    ce_score = hit["ce_score"]
    final = hit["be_score"] if ce_score is None else ce_score
    return bool(
        abs(hit["be_score"] - cosine) <= TOLERANCE
        and (ce_score is None or abs(ce_score - probability) <= TOLERANCE)
        and abs(hit["score"] - final) <= 1e-6
    )


def _order(hits: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    if [hit["rank"] for hit in hits] != list(range(1, len(hits) + 1)):
        yield "wrong order", f"the ranks are {[hit['rank'] for hit in hits]}"
    keys = [(hit["ce_score"] is not None, hit["score"]) for hit in hits]
    if keys != sorted(keys, reverse=True):
        yield "wrong order", f"the scores are {[hit['score'] for hit in hits]}"
    retrieved = sorted(hits, key=lambda hit: hit["be_rank"])
    scores = [hit["be_score"] for hit in retrieved]
    if scores != sorted(scores, reverse=True) or len({hit["be_rank"] for hit in hits}) < len(hits):
        yield "wrong order", f"the cosines by be_rank are {scores}"


def _honesty(answer: Mapping[str, Any], k: int, expected: Expected) -> Iterator[Problem]:
    """Whether `reranked`, `reranked_count` and `reason` say what happened."""
    hits, said = answer["hits"], f"reranked is {answer['reranked']} and the reason {answer['reason']!r}"
    scored = sum(hit["ce_score"] is not None for hit in hits)
    there = min(k, int(expected.certain.sum()))
    if answer["reranked"]:
        if scored < len(hits):
            yield "silent degradation", f"{said}, but {len(hits) - scored} of {len(hits)} hits are not reranked"
        elif answer["reranked_count"] < there:
            yield "silent degradation", f"{said}, but {answer['reranked_count']} candidates are reranked of {there} that are there"
        if answer["reason"] is not None:
            yield "silent degradation", f"{said}, which contradict each other"
    elif not answer["reason"]:
        yield "silent degradation", said
    if scored > answer["reranked_count"]:
        yield "wrong score", f"{scored} hits are reranked, but reranked_count is {answer['reranked_count']}"


def _complete(answer: Mapping[str, Any], k: int, limit: int, expected: Expected) -> Iterator[Problem]:
    """Whether the hits are those of an exact search. Answers that are reranked in part are left out: the depth decides."""
    if not answer["reranked"] and answer["reranked_count"]:
        return
    here = {hit["id"] for hit in answer["hits"]}
    sure = expected.surely_hits(k, limit, reranked=answer["reranked"])
    if missing := [id for id, place in expected.place.items() if sure[place] and id not in here]:
        yield "missing hit", f"{len(missing)} of the best {limit} are missing: {missing[:3]}"
    perhaps = expected.perhaps_retrieved(k)
    if odd := [id for id in here if id in expected.place and not perhaps[expected.place[id]]]:
        yield "wrong order", f"{len(odd)} hits are not among the best {k} candidates: {odd[:3]}"
    if len(here) < min(limit, k, int(expected.certain.sum())):
        yield "missing hit", f"{len(here)} hits, where {int(expected.certain.sum())} items are there"


def _bounds(values: Sequence[Sequence[float]]) -> tuple[Array, Array]:
    low = np.array([min(each, default=-np.inf) for each in values], np.float64)
    high = np.array([max(each, default=-np.inf) for each in values], np.float64)
    return low, high


def _number_of(values: Array, bounds: Array) -> Array:
    """For each bound, the number of values above it."""
    return len(values) - np.searchsorted(np.sort(values), bounds, side="right")
