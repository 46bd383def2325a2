"""Cross-encoder scores of candidates: in portions, until all are scored or time or the cross-encoder runs out."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from milvus_coop.bundle.spec import Score
from milvus_coop.deadline import Deadline
from milvus_coop.errors import BackendTimeoutError, BackendUnavailableError, TokenStoreError
from milvus_coop.models.reranker import PairScores, Reranker
from milvus_coop.search.contents import ContentReader
from milvus_coop.search.queries import EncodedQueries
from milvus_coop.types import Array, Candidate, Kind

CHUNK = 16
"""Candidates per query and run of the cross-encoder when there is a deadline; without one, as many as the memory below holds."""

CHUNK_BYTES = 128 * 2**20
"""Maximum bytes of token files or pixels that are read before the cross-encoder runs on them."""


@dataclass(slots=True)
class CeScores:
    """The cross-encoder's scores of the candidates of n queries, and the reason why some are missing."""

    probability: Array
    """float64 of shape (n, depth): the match probability of each query's candidates in BE order; NaN where there is none."""
    logit: Array
    """float64 of shape (n, depth): see `PairScores.logit`."""
    problem: str | None = None
    """The reason why scores are missing; None if no score is missing."""
    unreadable: int = 0
    """Number of candidates whose content could not be read."""

    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def none(cls, candidates: Sequence[Sequence[Candidate]], k: int, problem: str | None = None) -> CeScores:
        """No scores yet of the best `k` candidates of each query."""
        shape = len(candidates), min(k, max(map(len, candidates), default=0))
        return cls(np.full(shape, np.nan), np.full(shape, np.nan), problem)

    @property
    def count(self) -> int:
        """Number of candidates that have scores."""
        return int((~np.isnan(self.probability)).sum())

    def put(self, numbers: Array, positions: Array, found: PairScores) -> None:
        """Write the scores of candidate `positions[i]` of query `numbers[i]`, for all i. Scores that are not sound are left out."""
        sound = found.sound
        with self._writing:
            self.unreadable += int((~sound).sum())
            self.probability[numbers[sound], positions[sound]] = found.probability[sound]
            self.logit[numbers[sound], positions[sound]] = found.logit[sound]

    def cut(self, total: int) -> CeScores:
        """The scores so far of `total` candidates, if the deadline came. The thread that scores does not write to them any more."""
        with self._writing:
            cut = replace(self, probability=self.probability.copy(), logit=self.logit.copy())
        cut.problem = cut.problem or deadline_came(cut.count, total)
        return cut


class CandidateReranker(Protocol):
    """Scores the candidates of a batch of queries against their queries. Safe to share between threads."""

    @property
    def default_score(self) -> Score:
        """The score that orders candidates, if the query does not say."""

    def compares(self, query: Kind) -> bool:
        """True if queries of that kind can be scored against the candidates, as long as nothing fails."""

    def reads_contents(self, query: Kind) -> bool:
        """True if queries of that kind are scored with the tokens or states of candidates, which have to be fetched for it."""

    def score(
        self, queries: EncodedQueries, candidates: Sequence[Sequence[Candidate]], scores: CeScores, deadline: Deadline
    ) -> None:
        """Score the best candidates of each query, the best of all queries first, so that a deadline cuts all at one depth.

        Args:
            queries: n encoded queries.
            candidates: those of each query, in BE order.
            scores: `CeScores.none` of these candidates, which is filled in.
            deadline: the moment by which to be done.

        Raises:
            BackendError: the backend refused its input or broke. A backend or a token store that cannot be reached in time is no
                error but a `problem`.
        """

    def close(self) -> None:
        """End threads. Safe to call twice."""


class NoReranker:
    """Scores nothing, because an embedding server has no cross-encoder."""

    default_score: Score = "ce"

    def compares(self, query: Kind) -> bool:
        """False."""
        return False

    def reads_contents(self, query: Kind) -> bool:
        """False: nothing is read."""
        return False

    def score(
        self, queries: EncodedQueries, candidates: Sequence[Sequence[Candidate]], scores: CeScores, deadline: Deadline
    ) -> None:
        """See `CandidateReranker.score`."""
        scores.problem = "an embedder has no cross-encoder; try: --reranker PROTOCOL+https://host, as well"

    def close(self) -> None:
        """Nothing is to be ended."""


class BundleReranker:
    """Scores candidates with the cross-encoder of the bundle. Safe to share between threads."""

    def __init__(
        self, reader: ContentReader, reranker: Reranker, kind: Kind | None, timeout_s: float, default_score: Score = "ce"
    ) -> None:
        self._reader = reader
        self._reranker = reranker
        self._kind = kind
        self._timeout_s = timeout_s
        self.default_score: Score = default_score

    def compares(self, query: Kind) -> bool:
        """True if the one is a text and the other an image."""
        return query != self._kind

    def reads_contents(self, query: Kind) -> bool:
        """See `CandidateReranker.reads_contents`."""
        return self.compares(query)

    def close(self) -> None:
        """Nothing is to be ended."""

    def score(
        self, queries: EncodedQueries, candidates: Sequence[Sequence[Candidate]], scores: CeScores, deadline: Deadline
    ) -> None:
        """See `CandidateReranker.score`."""
        lengths = np.array([len(found) for found in candidates], np.int64)
        if not self.compares(queries.kind):
            scores.problem = f"the query and the items are both {self._kind}s; the cross-encoder compares a text with an image"
            return
        positions, numbers = np.nonzero(np.arange(scores.probability.shape[1])[:, None] < lengths[None, :])
        try:
            self._score_chunks(queries, candidates, numbers, positions, deadline, scores)
        except (BackendUnavailableError, BackendTimeoutError) as exc:
            scores.problem = f"the cross-encoder failed: {exc}"
        except TokenStoreError as exc:
            scores.problem = f"the token store failed: {exc}"
        if scores.problem is None and scores.unreadable:
            scores.problem = f"{scores.unreadable} of {len(positions)} candidates {self._reader.lack}"

    def _score_chunks(
        self,
        queries: EncodedQueries,
        candidates: Sequence[Sequence[Candidate]],
        numbers: Array,
        positions: Array,
        deadline: Deadline,
        scores: CeScores,
    ) -> None:
        total, n_queries = len(positions), len(queries.embeddings)
        size = max(CHUNK * n_queries, CHUNK_BYTES // self._reader.n_bytes if self._reader.n_bytes else total)
        size = size if deadline.is_never else CHUNK * n_queries
        slowest_s = 0.0
        for start in range(0, total, max(size, 1)):
            began_s = time.perf_counter()
            chunk = slice(start, start + size)
            late = deadline.remaining() <= slowest_s
            if late or not self._score_chunk(queries, candidates, numbers[chunk], positions[chunk], deadline, scores):
                scores.problem = deadline_came(start, total)
                return
            slowest_s = max(slowest_s, time.perf_counter() - began_s)

    def _score_chunk(
        self,
        queries: EncodedQueries,
        candidates: Sequence[Sequence[Candidate]],
        numbers: Array,
        positions: Array,
        deadline: Deadline,
        scores: CeScores,
    ) -> bool:
        """Read and score candidate `positions[i]` of query `numbers[i]`, for all i; False if reading took until the deadline."""
        chosen = [candidates[number][position] for number, position in zip(numbers.tolist(), positions.tolist(), strict=True)]
        contents = {candidate.id: candidate.content for candidate in chosen}  # queries may share candidates
        read = self._reader.read(list(contents.values()), self._timeout_s, deadline)
        timeout_s = deadline.within(self._timeout_s)
        if not timeout_s:
            return False
        row_of_item = np.full(len(contents), -1)
        row_of_item[list(read.positions)] = np.arange(len(read.positions))
        place = {id: number for number, id in enumerate(contents)}
        rows = row_of_item[[place[candidate.id] for candidate in chosen]]
        readable = rows >= 0
        scores.unreadable += int((~readable).sum())
        numbers, positions, rows = numbers[readable], positions[readable], rows[readable]
        if len(rows):
            side = read.side
            if not np.array_equal(rows, np.arange(len(read.positions))):
                side = {name: array[rows] for name, array in side.items()}
            scores.put(numbers, positions, self._run(queries, numbers, side, timeout_s))
        return True

    def _run(self, queries: EncodedQueries, numbers: Array, side: Mapping[str, Array], timeout_s: float) -> PairScores:
        # A single query stays one row: the reranker repeats it, so it is not gathered here.
        rows = numbers if len(queries.embeddings) > 1 else np.zeros(1, np.int64)
        query_side = {name: array[rows] for name, array in queries.side.items()}
        sides = (query_side, side) if self._kind == "image" else (side, query_side)
        return self._reranker.score_pairs(*sides, timeout_s=timeout_s)


def deadline_came(done: int, total: int) -> str:
    """The problem of candidates for which there was no time."""
    return f"the deadline came after {done} of {total} candidates"
