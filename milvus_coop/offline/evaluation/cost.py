"""The cost of a query as a user pays it: one query at a time, through `CoopSearch`, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from milvus_coop.errors import BackendError
from milvus_coop.offline.evaluation.corpus import Corpus
from milvus_coop.offline.evaluation.options import Options
from milvus_coop.offline.evaluation.progress import OnProgress, Progress
from milvus_coop.offline.evaluation.records import DIRECTIONS, AnnRecall, Contestant, Cost, Quantiles, Storage
from milvus_coop.offline.evaluation.systems import Entrant
from milvus_coop.offline.evaluation.workbench import Shelf, Workbench
from milvus_coop.search import CoopSearch
from milvus_coop.search.contents import contents_of
from milvus_coop.search.queries import ImageInput, encode_queries
from milvus_coop.search.reranking import CandidateReranker
from milvus_coop.types import Array, Kind, Timings

WARM_UP = 2
LEAST_QUERIES = 5
LIMIT = 10
"""Hits that the measured queries ask for."""
PROBE = 256
"""Number of candidates that are scored to estimate the time for a whole pool."""
AFFORDABLE_S = 5.0
"""An exhaustive query that takes longer is estimated, not measured."""
EXACT_TOLERANCE = 1e-5
"""Milvus sums float32 cosines in another order, so an item that scores this close to the k-th exact item counts as found."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Queries to measure with."""

    kind: Kind
    """The kind of item that the queries search for."""
    texts: tuple[str, ...] = ()
    images: tuple[ImageInput, ...] = ()
    seconds: float = 10.0
    """Time limit for one system in seconds; see `measure`."""

    def __len__(self) -> int:
        return len(self.texts) + len(self.images)


def sample(corpus: Corpus, language: str, kind: Kind, queries: Sequence[int], options: Options) -> Sample:
    """Some of the queries, drawn at random."""
    some = np.random.default_rng(options.seed).permutation(np.array(queries))[: options.cost_queries].tolist()
    if kind == "image":
        return Sample(kind, texts=tuple(corpus.texts[language][q].text for q in some), seconds=options.cost_s)
    return Sample(kind, images=tuple(corpus.images[q].path for q in some), seconds=options.cost_s)


@dataclass(frozen=True, slots=True)
class Meter:
    """One system in one pool, ready to answer queries."""

    contestant: Contestant
    pool: int
    ask: Callable[[int], Timings]
    """Answers query i of the sample and returns its timings."""
    estimated: bool = False
    """True if the timings of `ask` are estimated from a part of the work."""


def coop_meter(search: CoopSearch, of: Sample, contestant: Contestant, pool: int) -> Meter:
    """The meter of BE or Coop, which search through an opened collection."""
    k = contestant.k or LIMIT

    def ask(i: int) -> Timings:
        text, image = (of.texts[i], None) if of.texts else (None, of.images[i])
        return search.query(text, image=image, limit=min(LIMIT, k), k=k, rerank=contestant.k is not None).timings

    return Meter(contestant, pool, ask)


def exhaustive_meter(entrant: Entrant, shelf: Shelf, of: Sample) -> Meter:
    """The meter of the cross-encoder on every stored item. Where a query takes too long, it scores a few items and extrapolates."""
    contents = contents_of(entrant.models.encoder, shelf.kind, shelf.tokens)
    reranker = CandidateReranker(contents, entrant.models.reranker, shelf.kind, entrant.settings.timeout_s)
    candidates = shelf.candidates(list(shelf.rows))

    def ask(i: int, n: int) -> Timings:
        texts, images = ([of.texts[i]], None) if of.texts else (None, [of.images[i]])
        start = time.perf_counter()
        queries = encode_queries(entrant.models.encoder, texts, images, entrant.settings.timeout_s)
        encoded = time.perf_counter()
        scores = reranker.score(queries, [candidates[:n]], n, None)
        if scores.problem:
            raise BackendError(f"the cross-encoder could not score {n} pairs: {scores.problem}")
        encode_ms, ce_ms = 1000 * (encoded - start), 1000 * (time.perf_counter() - encoded) * len(candidates) / n
        return Timings(encode_ms, 0.0, ce_ms, encode_ms + ce_ms)

    contestant, few = Contestant(entrant.name, "ce"), min(PROBE, len(candidates))
    expected_ms = min(ask(0, few).total_ms for _ in range(2))
    if few == len(candidates) or expected_ms < 1000 * AFFORDABLE_S:
        return Meter(contestant, len(candidates), lambda i: ask(i, len(candidates)))
    return Meter(contestant, len(candidates), lambda i: ask(i, few), estimated=True)


def measure(meters: Sequence[Meter], of: Sample, stage: str, on_progress: OnProgress) -> list[Cost]:
    """Ask every meter the same queries. The meters take turns, so that other load on the machine affects all of them alike.

    A meter that has used up the sample's seconds stops, but not before it has answered `LEAST_QUERIES` queries.
    """
    for meter in meters:
        for i in range(min(WARM_UP, len(of))):
            meter.ask(i)
    timings: list[list[Timings]] = [[] for _ in meters]
    spent = [0.0] * len(meters)
    for i in range(len(of)):
        for number, meter in enumerate(meters):
            if spent[number] < of.seconds or i < LEAST_QUERIES:
                start = time.perf_counter()
                timings[number].append(meter.ask(i))
                spent[number] += time.perf_counter() - start
        on_progress(Progress(stage, i + 1, len(of)))
    return [_cost(meter, of.kind, some) for meter, some in zip(meters, timings, strict=True)]


def storage(entrant: Entrant, shelf: Shelf) -> Storage:
    """Bytes per item of a collection, its token files included."""
    files = entrant.spec.tokens.n_bytes if shelf.tokens is not None else 0
    return Storage(entrant.name, shelf.kind, len(shelf.rows), 4.0 * entrant.spec.dim, shelf.payload_bytes + files)


def ann_recall(bench: Workbench, name: str, shelf: Shelf, embeddings: Array, ks: Sequence[int]) -> AnnRecall:
    """Compare Milvus' answers with a full scan over the stored embeddings.

    Args:
        bench: the workbench that holds the collection.
        name: the name of the bundle.
        shelf: the collection.
        embeddings: the embeddings of the queries, float32 of shape (n, dim).
        ks: the numbers of neighbours to compare. A number larger than the collection means the whole collection.
    """
    exact = -np.sort(-(embeddings @ shelf.embeddings(list(shelf.rows)).T), axis=1)
    collection = bench.collection(shelf)
    recall: dict[int, float] = {}
    for k in ks:
        depth = min(k, len(shelf.rows))
        found = collection.search(embeddings, depth)
        good = [sum(c.be_score >= row[depth - 1] - EXACT_TOLERANCE for c in some) for some, row in zip(found, exact, strict=True)]
        recall[k] = float(np.mean(np.minimum(good, depth)) / depth)
    return AnnRecall(name, DIRECTIONS[shelf.kind], len(embeddings), recall)


def _cost(meter: Meter, kind: Kind, timings: Sequence[Timings]) -> Cost:
    def quantiles(name: str) -> Quantiles:
        p50, p95 = np.quantile([getattr(t, name) for t in timings], [0.5, 0.95]).tolist()
        return Quantiles(p50, p95)

    contestant = meter.contestant
    wanted = {"be": 0, "ce": meter.pool}.get(contestant.system, contestant.k or 0)
    names = ("encode_ms", "retrieve_ms", "rerank_ms", "total_ms")
    return Cost(
        contestant=contestant,
        direction=DIRECTIONS[kind],
        pool=meter.pool,
        queries=0 if meter.estimated else len(timings),
        pairs=min(wanted, meter.pool),
        **dict(zip(("encode_ms", "ann_ms", "ce_ms", "total_ms"), map(quantiles, names), strict=True)),
    )
