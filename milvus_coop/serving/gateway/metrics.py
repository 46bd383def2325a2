"""Metrics of the service for Prometheus. No metric contains a query, an image or a client's name."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from milvus_coop.types import IngestReport, SearchResult

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COUNTS = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"milvus_coop_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"milvus_coop_{name}", text, labels, buckets=buckets, registry=registry)

        self.requests = counter("requests", "Requests answered.", "method", "route", "status")
        self.seconds = histogram("request_seconds", "Time from a request's first byte to its answer's last byte.", SECONDS, "route")
        self.stages = histogram("stage_seconds", "Time of each stage of a search: encode, retrieve, rerank.", SECONDS, "stage")
        self.candidates = histogram("candidates", "Number of candidates that Milvus returned for a search.", COUNTS)
        self.searches = counter("searches", "Searches answered, by the order of the hits.", "order")
        self.failures = counter("failures", "Requests that failed, by error.", "error")
        self.refused = counter("refused", "Requests refused because too many were waiting.")
        self.items = counter("items", "Uploaded images, by outcome.", "outcome")
        self.documents = counter("rerank_documents", "Documents of rerank requests.", "protocol")
        self.unreadable = counter("rerank_unreadable", "Documents of rerank requests that could not be read.", "protocol")
        self._pending = Gauge("milvus_coop_pending", "Requests that run or wait.", registry=registry)

    def watch_pending(self, count: Callable[[], float]) -> None:
        """Set the function that returns the number of requests that run or wait."""
        self._pending.set_function(count)

    def searched(self, result: SearchResult, *, rerank: bool) -> None:
        """Record a search.

        Args:
            result: its result.
            rerank: True if it should be reranked: that was asked for, and the reranker compares such a query with such items. If
                the result is then not reranked, the search counts as degraded.
        """
        t = result.timings
        for stage, ms in (("encode", t.encode_ms), ("retrieve", t.retrieve_ms), ("rerank", t.rerank_ms)):
            self.stages.labels(stage).observe(ms / 1000)
        self.candidates.observe(result.candidates)
        degraded = rerank and not result.reranked and result.candidates > 0
        self.searches.labels("coop" if result.reranked else "degraded" if degraded else "bi-encoder").inc()

    def ingested(self, report: IngestReport) -> None:
        """Record an upload."""
        for outcome in ("added", "updated", "unchanged", "failed"):
            self.items.labels(outcome).inc(getattr(report, outcome))

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
