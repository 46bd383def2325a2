"""Scores candidates with the cross-encoder: it chooses the pairs, splits them into chunks, and handles deadlines and failures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from milvus_coop.errors import BackendTimeoutError, BackendUnavailableError, TokenStoreError
from milvus_coop.models.reranker import PairScores, Reranker
from milvus_coop.search.contents import Contents
from milvus_coop.search.queries import EncodedQueries
from milvus_coop.types import Array, Candidate, Kind

CHUNK = 16
"""Candidates per query in one run of the cross-encoder if there is a deadline. Without one, `CHUNK_BYTES` limits their number."""

CHUNK_BYTES = 128 * 2**20
"""Maximum size of the token files or pixels for one run of the cross-encoder, in bytes."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair to score."""

    query: int
    """Position of the query."""
    position: int
    """Position of the candidate among the query's candidates; 0 is the best in BE order."""
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class CeScore:
    """The cross-encoder's scores of one pair."""

    probability: float
    logit: float


@dataclass(slots=True)
class Scores:
    """The cross-encoder's scores by (query, position), and the reason why some are missing."""

    by_pair: dict[tuple[int, int], CeScore] = field(default_factory=dict)
    problem: str | None = None
    unreadable: int = 0
    """Number of pairs whose candidate could not be read."""

    def of_query(self, query: int) -> Mapping[int, CeScore]:
        """The scores of one query, by position."""
        return {position: score for (q, position), score in self.by_pair.items() if q == query}


class Rescorer:
    """Scores the candidates of a batch of queries against their queries. Safe to share between threads."""

    def __init__(self, contents: Contents, reranker: Reranker, kind: Kind | None, timeout_s: float) -> None:
        self._contents = contents
        self._reranker = reranker
        self._kind = kind
        self._timeout_s = timeout_s

    def score(self, queries: EncodedQueries, candidates: Sequence[Sequence[Candidate]], k: int, deadline_s: float | None) -> Scores:
        """Score the best `k` candidates of each query, in BE order.

        Args:
            queries: n encoded queries.
            candidates: the candidates of each query, in BE order.
            k: number of candidates to score per query.
            deadline_s: value of `time.perf_counter()` at which scoring must be finished; None means no limit.

        Raises:
            BackendError: the backend refused its input or failed. A backend that is slow or cannot be reached, or a token store
                that cannot be reached, is not an error; the result then has a `problem`.
        """
        if queries.kind == self._kind:
            return Scores(
                problem=f"the query and the items are both {self._kind}s; the cross-encoder compares a text with an image"
            )
        pairs = _pairs(candidates, k)
        scores = Scores()
        try:
            self._score_chunks(queries, pairs, deadline_s, scores)
        except (BackendUnavailableError, BackendTimeoutError) as exc:
            scores.problem = f"the cross-encoder failed: {exc}"
        except TokenStoreError as exc:
            scores.problem = f"the token store failed: {exc}"
        if scores.problem is None and scores.unreadable:
            scores.problem = f"{scores.unreadable} of {len(pairs)} candidates {self._contents.lack}"
        return scores

    def _score_chunks(self, queries: EncodedQueries, pairs: Sequence[Pair], deadline_s: float | None, scores: Scores) -> None:
        n_queries = len(queries.embeddings)
        size = max(CHUNK * n_queries, CHUNK_BYTES // self._contents.n_bytes if self._contents.n_bytes else len(pairs))
        size = CHUNK * n_queries if deadline_s is not None else size
        slowest_s = 0.0
        for start in range(0, len(pairs), max(size, 1)):
            began_s = time.perf_counter()
            chunk = pairs[start : start + size]
            late = deadline_s is not None and deadline_s - began_s <= slowest_s
            if late or not self._score_chunk(queries, chunk, deadline_s, scores):
                scores.problem = f"the deadline came after {start} of {len(pairs)} candidates"
                return
            slowest_s = max(slowest_s, time.perf_counter() - began_s)

    def _score_chunk(self, queries: EncodedQueries, pairs: Sequence[Pair], deadline_s: float | None, scores: Scores) -> bool:
        """Read and score a chunk. Returns False if reading took until the deadline."""
        items = {pair.candidate.id: pair.candidate for pair in pairs}  # queries may share candidates
        read = self._contents.read(list(items.values()), self._timeout_s, deadline_s)
        timeout_s = self._timeout_s if deadline_s is None else min(self._timeout_s, deadline_s - time.perf_counter())
        if timeout_s <= 0:
            return False
        ids = list(items)
        row_of = {ids[position]: row for row, position in enumerate(read.positions)}
        readable = [pair for pair in pairs if pair.candidate.id in row_of]
        scores.unreadable += len(pairs) - len(readable)
        if readable:
            side = read.side
            if len(readable) != len(row_of):
                rows = [row_of[pair.candidate.id] for pair in readable]
                side = {name: array[rows] for name, array in side.items()}
            found = self._run(queries, readable, side, timeout_s)
            for pair, p, z in zip(readable, found.probability.tolist(), found.logit.tolist(), strict=True):
                scores.by_pair[pair.query, pair.position] = CeScore(p, z)
        return True

    def _run(self, queries: EncodedQueries, pairs: Sequence[Pair], side: Mapping[str, Array], timeout_s: float) -> PairScores:
        # A single query stays one row, because the reranker repeats it.
        rows = [p.query for p in pairs] if len(queries.embeddings) > 1 else [0]
        query_side = {name: array[rows] for name, array in queries.side.items()}
        sides = (query_side, side) if self._kind == "image" else (side, query_side)
        return self._reranker.score_pairs(*sides, timeout_s=timeout_s)


def _pairs(candidates: Sequence[Sequence[Candidate]], k: int) -> list[Pair]:
    """The pairs, ordered by position and then by query, so that a deadline cuts all queries at the same position."""
    depth = min(k, max((len(found) for found in candidates), default=0))
    return [Pair(q, i, found[i]) for i in range(depth) for q, found in enumerate(candidates) if i < len(found)]
