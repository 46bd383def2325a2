"""Rescoring of candidates: which pairs, in what portions, and what happens when time or the cross-encoder runs out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from milvus_coop.encoder import Encoder
from milvus_coop.errors import BackendTimeoutError, BackendUnavailableError, TokensError
from milvus_coop.reranker import Reranker
from milvus_coop.search.queries import EncodedQueries
from milvus_coop.tokens import arrange, decode
from milvus_coop.types import Array, Candidate, Kind

CHUNK = 16
"""Candidates per query and run of the cross-encoder when there is a deadline; without one, all candidates go in one run."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair to score."""

    query: int
    """Position of the query."""
    position: int
    """Position of the candidate among the query's candidates; 0 is the bi-encoder's best."""
    content: bytes | str
    """What the cross-encoder reads of the candidate: token bytes, or a text."""


@dataclass(slots=True)
class Scores:
    """Match probabilities by (query, position), and why others are missing."""

    by_pair: dict[tuple[int, int], float] = field(default_factory=dict)
    problem: str | None = None

    def of_query(self, query: int) -> Mapping[int, float]:
        """Match probability by position, for one query."""
        return {position: score for (q, position), score in self.by_pair.items() if q == query}


class Rescorer:
    """Scores the candidates of a batch of queries against their queries. Safe to share between threads."""

    def __init__(self, encoder: Encoder, reranker: Reranker, kind: Kind | None, timeout_s: float) -> None:
        self._encoder = encoder
        self._reranker = reranker
        self._kind = kind
        self._timeout_s = timeout_s

    def score(self, queries: EncodedQueries, candidates: Sequence[Sequence[Candidate]], k: int, deadline_s: float | None) -> Scores:
        """Score the best `k` candidates of each query, in BE order.

        Args:
            queries: n encoded queries.
            candidates: of each query, in BE order.
            k: how many of each to score.
            deadline_s: value of `time.perf_counter()` by which to be done; None: no limit.

        Raises:
            BackendError: the backend refused its input or broke; being unreachable or slow is no error but a `problem`.
        """
        if queries.kind == self._kind:
            return Scores(
                problem=f"the query and the items are both {self._kind}s; the cross-encoder compares a text with an image"
            )
        n_candidates = sum(min(len(found), k) for found in candidates)
        pairs = self._readable_pairs(candidates, k)
        scores = Scores()
        if len(pairs) < n_candidates:
            scores.problem = (
                f"{n_candidates - len(pairs)} of {n_candidates} candidates hold nothing that the cross-encoder can read"
            )
        try:
            self._score_chunks(queries, pairs, deadline_s, scores)
        except (BackendUnavailableError, BackendTimeoutError) as exc:
            scores.problem = f"the cross-encoder failed: {exc}"
        return scores

    def _score_chunks(self, queries: EncodedQueries, pairs: Sequence[Pair], deadline_s: float | None, scores: Scores) -> None:
        size = CHUNK * len(queries.embeddings) if deadline_s is not None else max(len(pairs), 1)
        slowest_s = 0.0
        for start in range(0, len(pairs), size):
            began_s = time.perf_counter()
            timeout_s = self._timeout_s
            if deadline_s is not None:
                timeout_s = min(timeout_s, deadline_s - began_s)
                if timeout_s <= slowest_s:
                    scores.problem = f"the deadline came after {start} of {len(pairs)} candidates"
                    return
            chunk = pairs[start : start + size]
            values = self._score_pairs(queries, chunk, timeout_s)
            scores.by_pair.update(((p.query, p.position), float(v)) for p, v in zip(chunk, values, strict=True))
            slowest_s = max(slowest_s, time.perf_counter() - began_s)

    def _score_pairs(self, queries: EncodedQueries, pairs: Sequence[Pair], timeout_s: float) -> Array:
        # A single query stays one row: the reranker repeats it, so it is not gathered here.
        rows = [p.query for p in pairs] if len(queries.embeddings) > 1 else [0]
        side = {name: array[rows] for name, array in queries.side.items()}
        if self._kind == "image":
            tokens, scales = arrange([p.content for p in pairs if isinstance(p.content, bytes)], self._encoder.spec.tokens)
            return self._reranker.score(side, tokens, scales, timeout_s=timeout_s)
        texts = self._encoder.encode_texts([p.content for p in pairs if isinstance(p.content, str)], timeout_s=timeout_s)
        return self._reranker.score_pairs(texts.text_side, side, timeout_s=timeout_s).probability

    def _readable_pairs(self, candidates: Sequence[Sequence[Candidate]], k: int) -> list[Pair]:
        """The best candidates of all queries first, so that a deadline cuts every query at the same depth."""
        depth = min(k, max((len(found) for found in candidates), default=0))
        by_rank = ((q, i, found[i]) for i in range(depth) for q, found in enumerate(candidates) if i < len(found))
        contents = ((q, i, self._content(candidate)) for q, i, candidate in by_rank)
        return [Pair(q, i, content) for q, i, content in contents if content is not None]

    def _content(self, candidate: Candidate) -> bytes | str | None:
        if self._kind != "image":
            return candidate.payload if candidate.payload and candidate.payload.strip() else None
        try:
            return decode(candidate.payload or "", self._encoder.spec.tokens)
        except TokensError:
            return None
