"""The front door: who may ask, how much, and what is told and logged of it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request
from starlette.testclient import TestClient

from milvus_coop import CoopIngest, FakeBackend, load_bundle
from milvus_coop.bundle import TEXT_ENCODER
from milvus_coop.config import Settings
from milvus_coop.errors import BackendUnavailableError
from milvus_coop.serving.gateway.addresses import hider
from milvus_coop.serving.gateway.bodies import LARGE, read
from milvus_coop.serving.gateway.logs import LOGGER, JsonLines, ReadableLines
from milvus_coop.serving.gateway.tracing import Tracing
from tests.gateway.conftest import EXAMPLES, KEY, SCOPE, MakeClient
from tests.waiting import Gate, GatedBackend, wait_until

SECRET = "a very private question"


@pytest.fixture
def fake() -> FakeBackend:
    return FakeBackend(load_bundle("coop-small").spec)


@pytest.fixture
def gated() -> Iterator[GatedBackend]:
    """A backend whose text encoder does not answer before the test opens the gate."""
    backend = GatedBackend(load_bundle("coop-small").spec, TEXT_ENCODER)
    yield backend
    backend.gate.open()


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What the service logs."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, level = Keep(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield records
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)


def test_keys(make_client: MakeClient, fake: FakeBackend) -> None:
    client = make_client(api_keys=(KEY, "another-key-0123456789"), backend=fake)
    ask = {"text": "a dog"}
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": KEY},
        {"authorization": "Bearer "},
        {"authorization": "Bearer \u00e9"},
    ):
        refused = client.post("/v1/search", json=ask, headers={k.encode(): v.encode("latin-1") for k, v in headers.items()})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert KEY not in refused.text
    for key in (KEY, "another-key-0123456789"):
        assert client.post("/v1/search", json=ask, headers={"authorization": f"Bearer {key}"}).status_code == 200
    for path in ("/v1/collections", "/v1/items/x/thumbnail", "/nothing"):
        assert client.get(path).status_code == 401
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_clients_with_a_key_see_no_address(
    make_client: MakeClient, fake: FakeBackend, tmp_path: Path, lines: list[logging.LogRecord]
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    for uri, models in ((f"http://127.0.0.1:{port}", "onnx"), (tmp_path / "none.db", "triton://triton.internal:8001,other:1")):
        arguments: dict[str, Any] = {"uri": uri, "settings": {"timeout_s": 1, "models": models}, "backend": fake}
        hidden = make_client(**arguments, api_keys=(KEY,))
        said = hidden.post("/v1/search", json={"text": "a"}, headers={"authorization": f"Bearer {KEY}"})
        assert said.status_code == 503
        for secret in ("127.0.0.1", str(port), "none.db"):
            assert secret not in said.text
        assert "the configured address" in said.text
        shown = make_client(**arguments).post("/v1/search", json={"text": "a"}).text
        assert (str(port) if models == "onnx" else "none.db") in shown
    reasons = [str(json.loads(JsonLines().format(line)).get("reason", "")) for line in lines]
    assert sum(str(port) in reason for reason in reasons) == 2  # the log has them


def test_addresses_of_model_servers_are_hidden() -> None:
    settings = Settings(uri="http://milvus:19530/db", models="triton://triton.internal:8001,other:8002")
    hide = hider(settings, needed=True)
    said = "Milvus at http://milvus:19530/db: ipv4:10.0.0.7:19530; triton.internal:8001, other:8002; milvus-coop serve"
    place = "the configured address"
    assert hide(said) == f"Milvus at {place}: {place}; {place}, {place}; milvus-coop serve"
    assert hider(settings, needed=False)(said) == said
    said = 'the token store failed: no s3://acme/tokens/images: Could not connect to the endpoint URL: "http://minio:9000/a"'
    assert hide(said) == f'the token store failed: no {place}: Could not connect to the endpoint URL: "{place}"'


def test_pages_of_other_sites(make_client: MakeClient, fake: FakeBackend) -> None:
    client = make_client(cors_origins=("https://friend.example",), backend=fake)
    for origin, status in (
        ("http://localhost", 200),
        ("https://friend.example", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost:1", 403),
        ("null", 403),
    ):
        answer = client.post("/v1/search", json={"text": "a dog"}, headers={"origin": origin})
        assert answer.status_code == status, origin
        assert answer.headers.get("access-control-allow-origin") == (origin if "friend" in origin else None)


def test_names_of_the_host(make_client: MakeClient, fake: FakeBackend) -> None:
    client = make_client(backend=fake)
    for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("rebound.example", 421), ("", 421)):
        assert client.get("/openapi.json", headers={"host": host}).status_code == status, host
    named = make_client(host="0.0.0.0", allowed_hosts=("search.example",), anonymous=True, backend=fake)
    assert named.get("/openapi.json", headers={"host": "SEARCH.example:443"}).status_code == 200
    assert named.get("/openapi.json", headers={"host": "localhost"}).status_code == 421
    assert named.get("/readyz", headers={"host": "10.0.0.7:8080"}).status_code == 200  # a probe


def test_large_bodies(make_client: MakeClient, fake: FakeBackend) -> None:
    client = make_client(max_body_mb=1, backend=fake)
    large = b'{"text": "' + b"a" * 2**20 + b'"}'

    def drip() -> Iterator[bytes]:
        for start in range(0, len(large), 2**16):
            yield large[start : start + 2**16]

    for content in (large, drip()):
        refused = client.post("/v1/search", content=content, headers={"content-type": "application/json"})
        assert refused.status_code == 413
        assert "1,048,576 bytes" in refused.json()["expected"]


def test_large_bodies_are_parsed_outside_the_event_loop() -> None:
    async def parsed_in(content: bytes) -> int:
        async def receive() -> Any:
            return {"type": "http.request", "body": content}

        return await read(Request(dict(SCOPE), receive), lambda body: threading.get_ident())

    here = threading.get_ident()
    assert asyncio.run(parsed_in(b" " * LARGE)) == here
    assert asyncio.run(parsed_in(b" " * (LARGE + 1))) != here


def test_request_ids(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "mine-1.2"}).headers["x-request-id"] == "mine-1.2"
    for odd in ("x" * 65, "a b", "a\tb", ""):
        made = client.get("/healthz", headers={"x-request-id": odd}).headers["x-request-id"]
        assert len(made) == 32
    assert client.get("/healthz").headers["x-content-type-options"] == "nosniff"


def test_logs_tell_what_happened_and_nothing_private(
    make_client: MakeClient, fake: FakeBackend, lines: list[logging.LogRecord]
) -> None:
    client = make_client(api_keys=(KEY,), backend=fake)
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "r-1"}
    client.post("/v1/search", json={"text": SECRET, "filter": "year > 1"}, headers=headers)
    client.post("/v1/search", json={"text": SECRET, "image": "x"}, headers=headers)
    client.get("/healthz")
    found, refused = (json.loads(JsonLines().format(line)) for line in lines)
    assert (
        found.items()
        >= {"event": "request", "request_id": "r-1", "status": 200, "candidates": 8, "reranked_count": 8, "level": "info"}.items()
    )
    assert (refused["status"], refused["error"]) == (422, "RequestValidationError")
    everything = "".join(formatter.format(line) for line in lines for formatter in (JsonLines(), ReadableLines()))
    assert SECRET not in everything
    assert KEY not in everything
    assert "status=200" in everything


def test_what_clients_that_left_asked_for_is_not_done(make_client: MakeClient, gated: GatedBackend) -> None:
    client = make_client(concurrency=1, backend=gated)
    body = json.dumps({"text": "a"}).encode()

    async def leave() -> None:
        """Ask, and leave at once."""
        messages = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])
        sent: list[Any] = []

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        await client.app(dict(SCOPE), receive, send)
        assert not sent

    async def leave_often() -> None:
        await asyncio.gather(*(leave() for _ in range(20)))

    asyncio.run(leave_often())
    gated.gate.open()
    assert client.post("/v1/search", json={"text": "a"}).status_code == 200
    assert gated.rows[TEXT_ENCODER] <= 2  # the one that had begun, and the client that stayed
    assert 'milvus_coop_failures_total{error="ClientLeft"} 20.0' in client.get("/metrics").text


def test_what_nobody_expected(make_client: MakeClient, fake: FakeBackend, lines: list[logging.LogRecord]) -> None:
    fake.failures["text_encoder"] = RuntimeError("secret inside")  # type: ignore[assignment]
    client = make_client(backend=fake, raising=False)
    failed = client.post("/v1/search", json={"text": "a dog"})
    assert failed.status_code == 500
    assert "secret inside" not in failed.text
    assert failed.json()["request_id"] == failed.headers["x-request-id"]
    assert any("secret inside" in JsonLines().format(line) for line in lines)
    assert client.get("/healthz").status_code == 200
    assert 'milvus_coop_failures_total{error="RuntimeError"} 1.0' in client.get("/metrics").text


def test_too_many_are_told_to_come_back(make_client: MakeClient, gated: GatedBackend) -> None:
    client = make_client(concurrency=1, waiting=1, timeout_s=100, backend=gated)
    status: list[int] = []
    threads = [
        threading.Thread(target=lambda: status.append(client.post("/v1/search", json={"text": "a"}).status_code)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(status) == 4)  # one runs and one waits
    late = client.post("/v1/search", json={"text": "a"})
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    assert client.get("/healthz").status_code == 200  # who watches is not turned away
    gated.gate.open()
    for thread in threads:
        thread.join()
    assert sorted(status) == [200, 200, 429, 429, 429, 429]
    assert client.post("/v1/search", json={"text": "a"}).status_code == 200
    text = client.get("/metrics").text
    assert "milvus_coop_refused_total 5.0" in text
    assert "milvus_coop_pending 0.0" in text


def test_requests_that_take_too_long(make_client: MakeClient, gated: GatedBackend) -> None:
    client = make_client(concurrency=2, timeout_s=2.0, backend=gated)
    late = client.post("/v1/search", json={"text": "a"})
    assert (late.status_code, "longer" in late.json()["detail"]) == (504, True)
    assert gated.gate.passed == 0  # nobody waited for the encoder
    gated.gate.open()
    wait_until(lambda: client.post("/v1/search", json={"text": "a"}).status_code == 200)  # a busy machine may need a second try


def test_a_deadline_bounds_a_request(make_client: MakeClient, gated: GatedBackend) -> None:
    """Running and waiting: the second request never gets the only thread."""
    client = make_client(concurrency=1, timeout_s=100, backend=gated)
    late = client.post("/v1/search", json={"text": "a", "deadline_ms": 100})
    assert (late.status_code, late.headers["content-type"]) == (504, "application/problem+json")
    assert late.json()["detail"] == "the deadline came before the query was encoded"
    patient = threading.Thread(target=lambda: client.post("/v1/search", json={"text": "a"}))
    patient.start()
    wait_until(lambda: gated.gate.arrived == 2)
    waited = client.post("/v1/search", json={"text": "a", "deadline_ms": 100})
    assert (waited.status_code, waited.json()["detail"]) == (504, "the deadline came before the request was answered")
    assert gated.gate.passed == 0
    gated.gate.open()
    patient.join()
    assert client.post("/v1/search", json={"text": "a", "deadline_ms": 60_000}).json()["reranked"]


def test_a_body_that_does_not_come(make_client: MakeClient, fake: FakeBackend) -> None:
    client = make_client(timeout_s=0.2, backend=fake)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(client.app(dict(SCOPE), receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]  # what still comes is no request


def test_readiness_names_what_is_missing(make_client: MakeClient, fake: FakeBackend, tmp_path: Path) -> None:
    hidden = make_client(uri=tmp_path / "none.db", api_keys=(KEY,), backend=fake).get("/readyz").json()["problems"]
    assert hidden == {"milvus": "does not answer; the log says more"}  # no key is asked for here, and paths are nobody's business
    ready = make_client(backend=fake).get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "problems": {}})
    away = make_client(uri=tmp_path / "none.db", backend=fake)
    answer = away.get("/readyz")
    assert answer.status_code == 503
    assert "no Milvus Lite database" in answer.json()["problems"]["milvus"]
    assert away.post("/v1/search", json={"text": "a"}).status_code == 503
    assert away.get("/healthz").json() == {"status": "ok"}


class TriedBackend(FakeBackend):
    """As a model server's backend: `load` runs each graph, and fails if the graph is away."""

    def load(self, graphs: Sequence[str]) -> None:
        """See `Backend.load`."""
        for graph in graphs:
            if graph in self.failures:
                raise self.failures[graph]
            self.rows.setdefault(graph, 0)


def test_only_the_text_encoder_counts_for_readiness(make_client: MakeClient, tmp_path: Path) -> None:
    """Otherwise a balancer would leave out every gateway, although each still answers in the bi-encoder's order."""
    backend = TriedBackend(load_bundle("coop-small").spec)
    with CoopIngest("images", uri=tmp_path / "lite.db", models=backend) as ingest:
        ingest.run([EXAMPLES / "images"])
    for graph in ("image_encoder", "cross_encoder"):
        backend.failures[graph] = BackendUnavailableError(f"{graph} is away")
    client = make_client(uri=tmp_path / "lite.db", backend=backend)
    ready, found = client.get("/readyz"), client.post("/v1/search", json={"text": "a dog"}).json()
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "problems": {}})
    assert (len(found["hits"]), found["reranked"], found["reason"]) == (
        10,
        False,
        "the cross-encoder failed: cross_encoder is away",
    )
    backend.failures["text_encoder"] = BackendUnavailableError("text_encoder is away")
    ready = make_client(uri=tmp_path / "lite.db", backend=backend).get("/readyz")
    assert (ready.status_code, ready.json()["problems"]) == (503, {"models": "text_encoder is away"})


def test_all_models_are_loaded_before_the_first_request(make_client: MakeClient) -> None:
    backend = TriedBackend(load_bundle("coop-small").spec)
    make_client(backend=backend)
    assert backend.rows.keys() == {"text_encoder", "image_encoder", "cross_encoder"}


def test_a_milvus_that_does_not_answer_holds_nobody_up(make_client: MakeClient, fake: FakeBackend) -> None:
    """It hangs up at once while the service starts; then it accepts connections and is silent, until the test opens the gate."""
    starting, gate = Gate(), Gate()
    starting.open()
    gates = [starting]
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = silent.accept()
                    gates[-1].wait()
                    connection.close()

        threading.Thread(target=accept, daemon=True).start()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = make_client(uri=address, settings={"timeout_s": 100}, concurrency=4, timeout_s=100, backend=fake)
        gates.append(gate)
        status: list[int] = []
        asking = [
            threading.Thread(target=lambda: status.append(client.post("/v1/search", json={"text": "a"}).status_code))
            for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: gate.arrived == 1 and "milvus_coop_pending 4.0" in client.get("/metrics").text)
        assert client.get("/healthz").status_code == 200
        assert not status  # the four still wait for Milvus
        gate.open()
        for thread in asking:
            thread.join()
    assert status == [503] * 4
    assert gate.arrived < 4  # who came first has waited in vain for all of them


def test_metrics_of_a_search(make_client: MakeClient, fake: FakeBackend) -> None:
    client = make_client(backend=fake)
    client.post("/v1/search", json={"text": "a"})
    client.post("/v1/search", json={"text": "a", "rerank": False})
    client.get("/a/path/that/is/not/there")
    text = client.get("/metrics").text
    for line in (
        'milvus_coop_requests_total{method="POST",route="/v1/search",status="200"} 2.0',
        'milvus_coop_requests_total{method="-",route="none",status="404"} 1.0',
        'milvus_coop_searches_total{order="coop"} 1.0',
        'milvus_coop_searches_total{order="bi-encoder"} 1.0',
        'milvus_coop_stage_seconds_count{stage="retrieve"} 2.0',
        "milvus_coop_candidates_sum 16.0",
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


def test_traces(make_client: MakeClient, fake: FakeBackend) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    client = make_client(backend=fake)
    client.app.state.service.tracing = Tracing(provider)  # type: ignore[attr-defined]
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.post("/v1/search", json={"text": "a"}, headers={"traceparent": parent})
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"POST /v1/search", "milvus_coop.encode", "milvus_coop.retrieve", "milvus_coop.rerank"}
    whole = found["POST /v1/search"]
    assert f"{whole.context.trace_id:032x}" == parent.split("-")[1]
    for name in ("encode", "retrieve", "rerank"):
        stage = found[f"milvus_coop.{name}"]
        assert stage.parent is not None
        assert stage.parent.span_id == whole.context.span_id
        assert whole.start_time <= stage.start_time + 2_000_000  # type: ignore[operator]
        assert stage.end_time <= whole.end_time  # type: ignore[operator]


def test_files_of_the_page_are_sent_once(client: TestClient) -> None:
    first = client.get("/")
    assert "script-src 'self'" in first.headers["content-security-policy"]
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/gallery/grid.js", headers={"if-none-match": first.headers["etag"]}).status_code == 200
