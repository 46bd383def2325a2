"""The state of a search that runs: the parts of the answer that are there so far."""

from __future__ import annotations

import time
from collections.abc import Sequence

from milvus_coop.search.reranking import CeScores
from milvus_coop.types import Candidate, Timings

ENCODED, RETRIEVED = "the query was encoded", "candidates were retrieved"
"""The goals that a search must reach to have an answer."""


class SearchState:
    """Written by the thread that searches. If it is late, the thread of the caller takes what is there."""

    def __init__(self) -> None:
        self.goal = ENCODED
        """The next goal of the search."""
        self.found: tuple[Sequence[Sequence[Candidate]], CeScores] | None = None
        """The candidates of each query, and their scores so far; None before candidates were retrieved."""
        self._clock = [time.perf_counter()]

    def encoded(self) -> None:
        """Note that the queries are encoded."""
        self._clock.append(time.perf_counter())
        self.goal = RETRIEVED

    def retrieved(self, candidates: Sequence[Sequence[Candidate]], scores: CeScores) -> None:
        """Publish the candidates, and the scores that will be filled in."""
        self._clock.append(time.perf_counter())
        self.found = candidates, scores

    def timings(self) -> Timings:
        """The time of each stage until now, in milliseconds."""
        start, encoded, retrieved = (1000 * t for t in self._clock)
        end = 1000 * time.perf_counter()
        return Timings(encoded - start, retrieved - encoded, end - retrieved, end - start)
