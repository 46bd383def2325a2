"""Judges one answer of a search against the true scores, without any index: its hits, their order, and what it says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.campaign.history import Call
from benchmarks.campaign.timeline import Reader, Timeline
from benchmarks.campaign.truth import Truth
from milvus_coop.types import Array

TOLERANCE = 1e-4
"""Difference between two runs of the same graph, by ONNX Runtime here and in Triton, and of Milvus' float32 sums."""

NOWHERE = -1
"""The row of an item that cannot be there."""

Problem = tuple[str, str]


class Expected:
    """The versions that each item can have at the time of a search; `follow` goes to the time of the next one."""

    def __init__(self, truth: Truth, timeline: Timeline, visible_s: float = 0.0) -> None:
        self._truth = truth
        self._reader = Reader(timeline, visible_s)
        self.ids = list(timeline.writes)
        self.place = {id: i for i, id in enumerate(self.ids)}
        """The place of each item in the arrays."""
        self.certain = np.zeros(len(self.ids), bool)
        """Whether the item is there."""
        self._first = np.full(len(self.ids), NOWHERE)
        """Row of one possible version in the arrays of `Truth.scores`."""
        self._others: dict[int, list[int]] = {}
        """Rows of further versions, by place."""
        self._scores: dict[str, Scores] = {}

    def follow(self, call: Call) -> Scores:
        """The scores that are possible for the text of a search, at its time."""
        changes = self._reader.changes(call.start, call.end)
        for id, versions in changes.items():
            place = self.place[id]
            rows = [self._truth.row(version) for version in versions if version is not None]
            self.certain[place] = None not in versions
            self._first[place] = rows[0] if rows else NOWHERE
            self._others.pop(place, None)
            if len(rows) > 1:
                self._others[place] = rows[1:]
        if changes:
            self._scores.clear()
        text = call.arguments["text"]
        if text not in self._scores:
            self._scores[text] = Scores(self, *self._truth.scores(text))
        return self._scores[text]

    def rows(self, id: str) -> list[int]:
        """The rows of the possible versions of an item; empty if it cannot be there."""
        place = self.place.get(id)
        if place is None or self._first[place] == NOWHERE:
            return []
        return [int(self._first[place]), *self._others.get(place, ())]

    def bounds(self, scores: Array) -> tuple[Array, Array]:
        """The lowest and the highest score that each item can have."""
        low = np.where(self._first == NOWHERE, -np.inf, scores[self._first]).astype(np.float64)
        high = low.copy()
        for place, rows in self._others.items():
            low[place] = min(low[place], *scores[rows])
            high[place] = max(high[place], *scores[rows])
        return low, high


class Scores:
    """The lowest and the highest true scores that each item can have for one text."""

    def __init__(self, expected: Expected, cosines: Array, probabilities: Array) -> None:
        self.ids, self.place, self._rows = expected.ids, expected.place, expected.rows
        self._truth = cosines, probabilities
        self.certain = expected.certain
        self.cosine = expected.bounds(cosines)
        self.probability = expected.bounds(probabilities)

    def of(self, id: str) -> list[tuple[float, float]]:
        """Cosine and match probability of each possible version of an item."""
        cosines, probabilities = self._truth
        return [(float(cosines[row]), float(probabilities[row])) for row in self._rows(id)]

    def surely_retrieved(self, k: int) -> Array:
        """Items that are there and that fewer than k others can precede."""
        low, high = self.cosine
        return self.certain & (low - TOLERANCE >= _largest(high, k + 1))  # one of them is the item itself

    def perhaps_retrieved(self, k: int) -> Array:
        """Items that fewer than k others precede for certain."""
        low, high = self.cosine
        return high + TOLERANCE >= _largest(np.where(self.certain, low, -np.inf), k)

    def surely_hits(self, k: int, limit: int, *, reranked: bool) -> Array:
        """Items that must be among the first `limit` hits."""
        low, high = self.probability if reranked else self.cosine
        rivals = np.where(self.perhaps_retrieved(k), high, -np.inf)
        return self.surely_retrieved(k) & (low - TOLERANCE >= _largest(rivals, limit + 1))


def check_answer(call: Call, expected: Scores) -> list[Problem]:
    """All problems of an answer; empty if it is right."""
    asked, answer = call.arguments, call.answer
    hits = answer["hits"]
    return [
        *_hits(hits, expected),
        *_order(hits),
        *_honesty(answer, int(asked["k"]), expected),
        *_complete(answer, int(asked["k"]), int(asked["limit"]), expected),
    ]


def _hits(hits: Sequence[Mapping[str, Any]], expected: Scores) -> Iterator[Problem]:
    if twice := [id for id, n in Counter(hit["id"] for hit in hits).items() if n > 1]:
        yield "duplicate", f"hits come twice: {twice[:3]}"
    for hit in hits:
        true = expected.of(hit["id"])
        if not true:
            yield "ghost", f"the hit {hit['id']} is not in the collection"
        elif not any(_is_right(hit, cosine, probability) for cosine, probability in true):
            yield "wrong score", f"the hit {hit['id']} has {hit['be_score']}, {hit['ce_score']}; true: {true}"


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


def _honesty(answer: Mapping[str, Any], k: int, expected: Scores) -> Iterator[Problem]:
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


def _complete(answer: Mapping[str, Any], k: int, limit: int, expected: Scores) -> Iterator[Problem]:
    """Whether the hits are those of an exact search. Answers that are reranked in part are left out: the depth decides."""
    if not answer["reranked"] and answer["reranked_count"]:
        return
    here = {hit["id"] for hit in answer["hits"]}
    sure = expected.surely_hits(k, limit, reranked=answer["reranked"])
    if missing := [id for id in (expected.ids[place] for place in np.flatnonzero(sure)) if id not in here]:
        yield "missing hit", f"{len(missing)} of the best {limit} are missing: {missing[:3]}"
    perhaps = expected.perhaps_retrieved(k)
    if odd := [id for id in here if id in expected.place and not perhaps[expected.place[id]]]:
        yield "wrong order", f"{len(odd)} hits are not among the best {k} candidates: {odd[:3]}"
    if len(here) < min(limit, k, int(expected.certain.sum())):
        yield "missing hit", f"{len(here)} hits, where {int(expected.certain.sum())} items are there"


def _largest(values: Array, n: int) -> float:
    """The n-th largest value; minus infinity if there are fewer."""
    return float(np.partition(values, len(values) - n)[len(values) - n]) if n <= len(values) else -np.inf
