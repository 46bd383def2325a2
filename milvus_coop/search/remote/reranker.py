"""`RemoteReranker`: scores candidates with a rerank server, in the place of the bundle's cross-encoder."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass

import numpy as np

from milvus_coop.bundle.spec import Score
from milvus_coop.deadline import NEAR_S, Deadline
from milvus_coop.errors import BackendError, BackendTimeoutError, ImageError
from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.models.preprocess.thumbnails import thumbnail
from milvus_coop.models.reranker import PairScores
from milvus_coop.search.queries import EncodedQueries
from milvus_coop.search.remote.address import RerankServer
from milvus_coop.search.remote.client import RerankClient
from milvus_coop.search.remote.images import CandidateImages, Unsent
from milvus_coop.search.reranking import CHUNK, CeScores, deadline_came
from milvus_coop.servers.parts import EDGE, Part
from milvus_coop.types import Candidate, Kind, StoredText

AT_ONCE = 4
"""Maximum number of requests of one call that run at the same time."""
REQUEST_BYTES = 8 * 2**20
"""Maximum size of the documents in a request, in bytes, unless one alone is larger."""


@dataclass(frozen=True, slots=True)
class _Portion:
    """Candidates of one query that were scored together."""

    number: int
    """The number of the query."""
    positions: Sequence[int]
    """The positions of the scored candidates among those of the query."""
    found: Sequence[PairScores]
    """Their scores, by request."""
    unsent: Sequence[Unsent] = ()
    """The reasons why the others were not sent."""


class RemoteReranker:
    """Scores the candidates of a batch of queries. Safe to share between threads.

    Args:
        server: the server, and what may be sent to it.
        kind: the kind of the collection's items.
        timeout_s: time limit of each request, and of opening the images for it.
    """

    default_score: Score = "ce"

    def __init__(self, server: RerankServer, kind: Kind, timeout_s: float) -> None:
        self._server = server
        self._client = RerankClient(server, timeout_s)
        self._images = CandidateImages(server.folders, server.prefixes, server.max_pixels)
        self._kind = kind
        self._timeout_s = timeout_s

    def compares(self, query: Kind) -> bool:
        """True if the protocol takes such queries and such items."""
        protocol = self._server.protocol
        return query in protocol.queries and self._kind in protocol.documents

    def reads_contents(self, query: Kind) -> bool:
        """False: texts come with every candidate, and no image tokens are needed."""
        return False

    def score(
        self, queries: EncodedQueries, candidates: Sequence[Sequence[Candidate]], scores: CeScores, deadline: Deadline
    ) -> None:
        """See `CandidateReranker.score`. Whatever the server does, it is no error but a `problem`."""
        protocol, label = self._server.protocol, self._server.server.label
        for kind, accepted, what in ((queries.kind, protocol.queries, "query"), (self._kind, protocol.documents, "items")):
            if kind not in accepted:
                scores.problem = f"{label} takes no {kind}s as {what}"
                return
        depth = scores.probability.shape[1]
        total = sum(min(depth, len(found)) for found in candidates)
        try:
            scores.problem = self._score(queries, candidates, scores, total, deadline)
        except BackendTimeoutError as exc:
            late = deadline.remaining() <= NEAR_S
            scores.problem = deadline_came(scores.count, total) if late else f"the reranker failed: {exc}"
        except (BackendError, ImageError) as exc:
            scores.problem = f"the reranker failed: {exc}"

    def _score(
        self,
        queries: EncodedQueries,
        candidates: Sequence[Sequence[Candidate]],
        scores: CeScores,
        total: int,
        deadline: Deadline,
    ) -> str | None:
        """Score candidates; the reason why some have no score.

        Raises:
            BackendError: the server failed. Scores of other requests are kept.
            ImageError: the image of a query cannot be read a second time.
        """
        asked = [_part(queries.kind, source, self._server.max_pixels) for source in queries.sources]
        unsent: Counter[Unsent] = Counter()
        problem: BackendError | None = None
        stop = threading.Event()
        pool = ThreadPoolExecutor(AT_ONCE, "milvus-coop-rerank")
        try:
            jobs = [
                pool.submit(self._score_portion, number, asked[number], candidates[number], positions, deadline, stop)
                for number, positions in self._portions(candidates, scores.probability.shape[1], deadline)
            ]
            for job in as_completed(jobs, deadline.wait_s()):
                try:
                    portion = job.result()
                except BackendError as exc:
                    problem = problem or exc
                    stop.set()
                    continue
                unsent.update(portion.unsent)
                self._put(scores, portion)
        except LateError:
            return deadline_came(scores.count, total)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if problem is not None:
            raise problem
        if scores.count < total and deadline.remaining() <= NEAR_S:
            return deadline_came(scores.count, total)
        return self._lack(unsent, total)

    def _portions(self, candidates: Sequence[Sequence[Candidate]], depth: int, deadline: Deadline) -> Iterator[tuple[int, range]]:
        """The number of a query and positions of its candidates, the best of all queries first."""
        size = self._server.documents if deadline.is_never else min(CHUNK, self._server.documents)
        for start in range(0, depth, size):
            for number, found in enumerate(candidates):
                if positions := range(start, min(start + size, depth, len(found))):
                    yield number, positions

    def _score_portion(
        self,
        number: int,
        query: Part,
        candidates: Sequence[Candidate],
        positions: Sequence[int],
        deadline: Deadline,
        stop: threading.Event,
    ) -> _Portion:
        if stop.is_set():
            return _Portion(number, (), ())
        parts = self._documents([candidates[position] for position in positions], deadline)
        held = [(position, part) for position, part in zip(positions, parts, strict=True) if not isinstance(part, Unsent)]
        found = [self._client.score(query, some, deadline) for some in grouped(REQUEST_BYTES, [part for _, part in held])]
        return _Portion(number, [position for position, _ in held], found, [part for part in parts if isinstance(part, Unsent)])

    def _documents(self, candidates: Sequence[Candidate], deadline: Deadline) -> Sequence[Part | Unsent]:
        if self._kind == "image":
            return self._images.open([candidate.uri for candidate in candidates], Deadline(deadline.within(self._timeout_s)))
        contents = [candidate.content for candidate in candidates]
        return [content.text if isinstance(content, StoredText) and content.text else Unsent.UNREADABLE for content in contents]

    def _put(self, scores: CeScores, portion: _Portion) -> None:
        start = 0
        for found in portion.found:
            positions = np.array(portion.positions[start : start + len(found.probability)], np.int64)
            scores.put(np.full(len(positions), portion.number), positions, found)
            start += len(positions)

    def _lack(self, unsent: Mapping[Unsent, int], total: int) -> str | None:
        reasons = []
        if below_none := unsent.get(Unsent.BELOW_NO_ROOT, 0):
            reasons.append(
                f"{below_none} of {total} candidates have no image below a root, so it is not sent to the reranker; "
                "try: --reranker-root FOLDER, or s3://bucket/prefix"
            )
        if unreadable := unsent.get(Unsent.UNREADABLE, 0):
            lack = "have an image that cannot be read, or not in time" if self._kind == "image" else "hold no text"
            reasons.append(f"{unreadable} of {total} candidates {lack}")
        return "; ".join(reasons) or None

    def close(self) -> None:
        """End the threads."""
        self._images.close()


def _part(kind: Kind, source: ImageInput, max_pixels: int) -> Part:
    """A query as it is sent."""
    return source if kind == "text" and isinstance(source, str) else thumbnail(source, EDGE, max_pixels=max_pixels)


def grouped(limit: int, documents: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """The documents in groups of at most `limit` bytes, as base64 or UTF-8."""
    start, size = 0, 0
    for i, document in enumerate(documents):
        n_bytes = len(document.encode(errors="replace")) if isinstance(document, str) else len(document) * 4 // 3
        if size + n_bytes > limit and i > start:
            yield documents[start:i]
            start, size = i, 0
        size += n_bytes
    if documents:
        yield documents[start:]
