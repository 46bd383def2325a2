"""The cost of a query as a user pays it: one query at a time, through `CoopSearch`, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.offline.evaluation.corpus import EvaluationCorpus
from milvus_coop.offline.evaluation.options import EvaluationOptions
from milvus_coop.offline.evaluation.progress import EvaluationProgress, OnProgress
from milvus_coop.offline.evaluation.records import DIRECTIONS, AnnRecall, Cost, Quantiles, Storage, SystemVariant
from milvus_coop.offline.evaluation.systems import OpenedBundle
from milvus_coop.offline.evaluation.workbench import Shelf, Workbench
from milvus_coop.search import CoopSearch
from milvus_coop.search.contents import content_reader
from milvus_coop.search.queries import encode_queries
from milvus_coop.search.reranking import CHUNK_BYTES
from milvus_coop.types import Array, Kind, Timings

WARM_UP = 2
MINIMUM_QUERIES = 5
LIMIT = 10
"""Hits that the measured queries ask for."""
PROBE = 256
"""Number of candidates that are scored to estimate the time for a whole pool."""
AFFORDABLE_S = 5.0
"""An exhaustive query that takes longer is estimated, not measured."""
PARTS = (8, 4, 2, 1)
"""The pool is divided by these to see how the cost of a query grows with it."""
MINIMUM_PART = 10
"""Minimum number of items in a part that is measured."""
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


def sample(corpus: EvaluationCorpus, language: str, kind: Kind, queries: Sequence[int], options: EvaluationOptions) -> Sample:
    """Some of the queries, drawn at random."""
    some = np.random.default_rng(options.seed).permutation(np.array(queries))[: options.cost_queries].tolist()
    if kind == "image":
        return Sample(kind, texts=tuple(corpus.texts[language][q].text for q in some), seconds=options.cost_s)
    return Sample(kind, images=tuple(corpus.images[q].path for q in some), seconds=options.cost_s)


@dataclass(frozen=True, slots=True)
class Meter:
    """One system in one pool, ready to answer queries."""

    variant: SystemVariant
    pool: int
    ask: Callable[[int], Timings]
    """Answers query i of the sample and returns its timings."""
    estimated: bool = False
    """True if the timings of `ask` are estimated from a part of the work."""


def coop_meter(search: CoopSearch, of: Sample, variant: SystemVariant, pool: int) -> Meter:
    """The meter of BE or Coop, which search through an opened collection."""
    k = variant.k or LIMIT

    def ask(i: int) -> Timings:
        text, image = (of.texts[i], None) if of.texts else (None, of.images[i])
        return search.query(text, image=image, limit=min(LIMIT, k), k=k, rerank=variant.k is not None).timings

    return Meter(variant, pool, ask)


def exhaustive_meter(opened: OpenedBundle, shelf: Shelf, of: Sample) -> Meter:
    """The meter of the cross-encoder on every stored item. Where a query takes too long, it scores a few items and extrapolates."""
    timeout_s, reranker = opened.settings.timeout_s, opened.models.reranker
    reader = content_reader(opened.models.encoder, shelf.kind, shelf.tokens)
    items = list(shelf.rows)
    step = max(1, CHUNK_BYTES // reader.n_bytes) if reader.n_bytes else len(items)

    def ask(i: int, n: int) -> Timings:
        texts, images = ([of.texts[i]], None) if of.texts else (None, [of.images[i]])
        start = time.perf_counter()
        query = encode_queries(opened.models.encoder, texts, images, timeout_s)
        encoded = time.perf_counter()
        for first in range(0, n, step):
            side = shelf.read(reader, items[first : min(first + step, n)], timeout_s)
            sides = (query.side, side) if query.kind == "text" else (side, query.side)
            reranker.score_pairs(*sides, timeout_s=timeout_s)
        encode_ms, ce_ms = 1000 * (encoded - start), 1000 * (time.perf_counter() - encoded) * len(items) / n
        return Timings(encode_ms, 0.0, ce_ms, encode_ms + ce_ms)

    variant, few = SystemVariant(opened.name, "ce"), min(PROBE, len(items))
    expected_ms = min(ask(0, few).total_ms for _ in range(2))
    if few == len(items) or expected_ms < 1000 * AFFORDABLE_S:
        return Meter(variant, len(items), lambda i: ask(i, len(items)))
    return Meter(variant, len(items), lambda i: ask(i, few), estimated=True)


def measure(meters: Sequence[Meter], of: Sample, stage: str, on_progress: OnProgress) -> list[Cost]:
    """Ask every meter the same queries. The meters take turns, so that other load on the machine affects all of them alike.

    A meter that has used up the sample's seconds stops, but not before it has answered `MINIMUM_QUERIES` queries.
    """
    for meter in meters:
        for i in range(min(WARM_UP, len(of))):
            meter.ask(i)
    timings: list[list[Timings]] = [[] for _ in meters]
    spent = [0.0] * len(meters)
    for i in range(len(of)):
        for number, meter in enumerate(meters):
            if spent[number] < of.seconds or i < MINIMUM_QUERIES:
                start = time.perf_counter()
                timings[number].append(meter.ask(i))
                spent[number] += time.perf_counter() - start
        on_progress(EvaluationProgress(stage, i + 1, len(of)))
    return [_cost(meter, of.kind, some) for meter, some in zip(meters, timings, strict=True)]


def grow(
    bench: Workbench,
    opened: OpenedBundle,
    shelf: Shelf,
    of: Sample,
    variants: Sequence[SystemVariant],
    seed: int,
    on_progress: OnProgress,
) -> list[Cost]:
    """Measure every variant in random parts of a collection. Each part contains the smaller parts."""
    order = np.random.default_rng(seed).permutation(np.array(list(shelf.rows))).tolist()
    sizes = sorted({n for part in PARTS if (n := -(-len(order) // part)) >= MINIMUM_PART} | {len(order)})
    parts = [bench.part(shelf, sorted(order[:size])) for size in sizes]
    meters: list[Meter] = []
    with ExitStack() as stack:
        for part in parts:
            search = stack.enter_context(bench.search(part))
            size = len(part.rows)
            meters += [
                exhaustive_meter(opened, part, of) if c.system == "ce" else coop_meter(search, of, c, size) for c in variants
            ]
        costs = measure(meters, of, f"measure parts of the pool, {opened.name}", on_progress)
    for part in parts:
        if part is not shelf:
            bench.drop(part)
    return costs


def storage(opened: OpenedBundle, shelf: Shelf) -> Storage:
    """Bytes per item of a collection, its token files included."""
    files = opened.spec.tokens.n_bytes if shelf.tokens is not None else 0
    return Storage(opened.name, shelf.kind, len(shelf.rows), 4.0 * opened.spec.dim, shelf.content_bytes + files)


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

    variant = meter.variant
    wanted = {"be": 0, "ce": meter.pool}.get(variant.system, variant.k or 0)
    names = ("encode_ms", "retrieve_ms", "rerank_ms", "total_ms")
    return Cost(
        variant=variant,
        direction=DIRECTIONS[kind],
        pool=meter.pool,
        queries=0 if meter.estimated else len(timings),
        pairs=min(wanted, meter.pool),
        **dict(zip(("encode_ms", "ann_ms", "ce_ms", "total_ms"), map(quantiles, names), strict=True)),
    )
