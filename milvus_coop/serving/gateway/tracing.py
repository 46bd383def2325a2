"""Optional OpenTelemetry traces, with a span for each request and for each stage of a search."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.gateway.facts import Facts
from milvus_coop.types import Timings

NAME = "milvus-coop"


class Tracing:
    """Makes spans with an OpenTelemetry tracer provider. Without a provider, it does nothing."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(NAME) if provider is not None else None

    @contextmanager
    def request(self, facts: Facts) -> Iterator[None]:
        """The span of a request. It is a child of the span in the request's `traceparent` header."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        parent = extract(Headers(scope=facts.scope))
        with self._tracer.start_as_current_span(facts.method, context=parent, kind=SpanKind.SERVER) as span:
            try:
                yield
            finally:
                span.update_name(f"{facts.method} {facts.route}")
                span.set_attributes(
                    {
                        "http.route": facts.route,
                        "http.request.method": facts.method,
                        "http.response.status_code": facts.status,
                        "request.id": facts.id,
                    }
                )
                if facts.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.set_status(StatusCode.ERROR, facts.error)

    def searched(self, timings: Timings) -> None:
        """Record the spans of the stages of a search that has just ended."""
        if self._tracer is None:
            return
        end_ns = time.time_ns()
        began_ns = end_ns - int(1e6 * timings.total_ms)
        for name, ms in (("encode", timings.encode_ms), ("retrieve", timings.retrieve_ms), ("rerank", timings.rerank_ms)):
            stage_end_ns = began_ns + int(1e6 * ms)
            self._tracer.start_span(f"milvus_coop.{name}", start_time=began_ns).end(stage_end_ns)
            began_ns = stage_end_ns

    def close(self) -> None:
        """Send all spans that were not sent yet."""
        if self._provider is not None:
            self._provider.shutdown()


def open_tracing() -> Tracing:
    """Traces with OpenTelemetry's standard variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, ...

    Raises:
        InvalidArgumentError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as exc:
        raise InvalidArgumentError("OpenTelemetry is not installed", run="pip install 'milvus-coop[trace]'") from exc
    provider = TracerProvider(resource=Resource.create({"service.name": NAME}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
