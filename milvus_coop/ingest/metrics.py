"""The metrics of an ingest for Prometheus, from the process that drives it. No metric contains the name of an item.

Only those who import this module need prometheus_client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from milvus_coop.errors import InvalidArgumentError, MissingPackageError, reason_of
from milvus_coop.ingest.counts import Counts
from milvus_coop.ingest.sink import Progress

try:
    from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as exc:
    raise MissingPackageError("prometheus_client is not installed", run="pip install 'milvus-coop[serve]'") from exc


@dataclass(frozen=True, slots=True)
class IngestMetrics:
    """Metrics that are being served."""

    url: str
    """Their address."""
    show: Callable[[Progress], None]
    """The `on_progress` of the ingest."""


@contextmanager
def serve_metrics(port: int, host: str = "127.0.0.1") -> Iterator[IngestMetrics]:
    """Serve the metrics of one ingest over HTTP until the end of the block.

    Args:
        port: the port to listen on; 0 for any free one.
        host: the address to listen on; by default this machine only.

    Raises:
        InvalidArgumentError: the address cannot be used.
    """
    registry, collector = CollectorRegistry(), _Collector()
    ProcessCollector(registry=registry)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as exc:
        raise InvalidArgumentError(
            f"cannot listen on {host}:{port}: {reason_of(exc)}", expected="a free port of this machine", run="--metrics-port 0"
        ) from exc
    try:
        name = f"[{host}]" if ":" in host else host
        yield IngestMetrics(f"http://{name}:{server.server_port}/metrics", collector.show)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Collector(Collector):
    """Makes metrics of the latest progress whenever somebody asks for them."""

    def __init__(self) -> None:
        self._started = time.time()
        self._progress = Counts().progress(None)

    def show(self, progress: Progress) -> None:
        """Replace the progress."""
        self._progress = progress

    def collect(self) -> Iterator[Metric]:
        """The metrics; Prometheus' client calls this."""
        now = self._progress
        items = CounterMetricFamily("milvus_coop_ingest_items", "Finished items, by outcome.", labels=["outcome"])
        for outcome in ("added", "updated", "unchanged", "failed"):
            items.add_metric([outcome], getattr(now, outcome))
        yield items
        yield CounterMetricFamily("milvus_coop_ingest_seen", "Items taken from the sources.", value=now.seen)
        stages = CounterMetricFamily("milvus_coop_ingest_stage_seconds", "Seconds of each stage, of all threads.", labels=["stage"])
        available = CounterMetricFamily(
            "milvus_coop_ingest_stage_available_seconds", "Seconds that the threads had for each stage.", labels=["stage"]
        )
        for stage, spent in now.stages.items():
            stages.add_metric([stage], spent.seconds)
            available.add_metric([stage], spent.available_s)
        yield from (stages, available)
        if now.total is not None:
            yield GaugeMetricFamily("milvus_coop_ingest_total_items", "Items in all sources, once counted.", value=now.total)
        yield GaugeMetricFamily("milvus_coop_ingest_start_time_seconds", "Start of the ingest, as Unix time.", value=self._started)
