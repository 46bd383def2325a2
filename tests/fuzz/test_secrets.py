"""What a caller sends in confidence is in no log, no metric, no trace and no answer to another caller.

A caller's own answer may repeat a value that was wrong, as errors do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from milvus_coop import CoopIngest, FakeBackend, load_bundle
from milvus_coop.serving.gateway.logs import JsonLines, ReadableLines
from milvus_coop.serving.gateway.tracing import Tracing
from tests.fuzz.runs import holds, lengths
from tests.fuzz.test_http import IMAGE, TOKENS
from tests.gateway.conftest import KEY, client_of

TOKEN = "user:token-of-the-database-5f1c"
HEX = "0123456789abcdef"
ROUTES = ["/v1/search", "/v1/items", "/v1/embeddings", "/v2/rerank", "/v1/rerank", "/rerank", "/collections/images/v2/rerank"]
READS = [
    "/v1/collections",
    "/v1/models",
    "/v1/models/x",
    "/v1/items/x/thumbnail",
    "/readyz",
    "/metrics",
    "/",
    "/openapi.json",
    "/none",
]
NAMES = [
    "text",
    "filter",
    "query",
    "documents",
    "texts",
    "input",
    "image",
    "user",
    "model",
    "metadata",
    "collection",
    "odd",
    "score",
]


class Everything(logging.Handler):
    """Collects all that any logger of the process writes, as both formats of the service would write it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("httpx"):  # the client of the test, which is in the same process
            return
        self.found += [formatter.format(record) for formatter in (JsonLines(), ReadableLines())]


class Watched:
    """A service, and all that it writes about its callers."""

    def __init__(self, client: TestClient, log: Everything, spans: InMemorySpanExporter) -> None:
        self.client, self.log, self.spans = client, log, spans
        self.headers = {"authorization": f"Bearer {KEY}"}

    def told(self) -> str:
        """Everything that somebody else than the caller can see after a request."""
        found = [*self.log.found, *(str(span.to_json()) for span in self.spans.get_finished_spans())]
        self.log.found.clear()
        self.spans.clear()
        found.append(self.client.get("/metrics").text)
        for path in ("/readyz", "/v1/collections", "/none"):
            found.append(self.client.get(path, headers=self.headers).text)
        found.append(self.client.post("/v1/search", json={"text": "a dog", "filter": "year >"}, headers=self.headers).text)
        return "\n".join(found)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("secrets")
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(IMAGE)
    (folder / "list.jsonl").write_text('{"path": "photos/a.png", "year": 2019}\n')
    backend = FakeBackend(load_bundle("coop-small").spec)
    with CoopIngest("images", uri=folder / "lite.db", models=backend) as ingest:
        ingest.run([folder / "list.jsonl"])
    log, spans = Everything(), InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    loggers = [logging.getLogger(), logging.getLogger("milvus_coop.serving.gateway")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    loggers[0].addHandler(log)
    options: dict[str, Any] = {"api_keys": (KEY,), "uploads": str(folder / "up"), "backend": backend, "raising": False}
    with client_of(folder, settings={"token": TOKEN}, **options) as client:
        client.app.state.service.tracing = Tracing(provider)  # type: ignore[attr-defined]
        yield Watched(client, log, spans)
    loggers[0].removeHandler(log)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


secrets = st.text(HEX, min_size=24, max_size=24)
shapes = st.sampled_from(
    ["{}", "year == '{}'", "year == '{}", "{} >", "a dog {}", "data:image/png;base64,{}", "data:,{}", "{}\n", "({}"]
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """A secret, and a request that holds it in one or more places: valid, invalid or malformed."""
    secret = draw(secrets)
    path = draw(st.sampled_from([*ROUTES, *ROUTES, *READS]))
    held = st.builds(str.format, shapes, st.just(secret))
    spoken = draw(st.sampled_from(["a dog", f"a {secret} dog"]))
    usual = {"text": spoken, "query": spoken, "documents": [TOKENS], "input": spoken}
    known = {"/v1/search": ["text"], "/v1/embeddings": ["input"]}.get(path, ["query", "documents"])
    body: dict[str, Any] = {name: usual[name] for name in known}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=1)):
        body[name] = draw(held | held.map(lambda text: [text]) | held.map(lambda text: {text: text}))
    content = json.dumps(body)
    if draw(st.integers(0, 4)) == 0:  # malformed
        content = content[: draw(st.integers(0, len(content)))] + secret
    headers = {"content-type": "application/json", "authorization": f"Bearer {draw(st.sampled_from([KEY, KEY, KEY, secret]))}"}
    for name in draw(
        st.lists(st.sampled_from(["cookie", "x-api-key", "user-agent", "referer", "x-odd", "content-type"]), max_size=2)
    ):
        headers[name] = secret
    request: dict[str, Any] = {"headers": headers}
    if path in READS:
        request["method"] = "GET"
    elif path == "/v1/items" or draw(st.integers(0, 5)) == 0:
        del headers["content-type"]
        fields = {name: draw(held) for name in draw(st.lists(st.sampled_from(["filter", "metadata", "text", "odd"]), max_size=2))}
        name = draw(st.sampled_from(["files", "image", "odd"]))
        content_of = draw(st.sampled_from([IMAGE, IMAGE[:30], secret.encode()]))
        request |= {"method": "POST", "data": fields, "files": {name: (f"{secret}.png", content_of)}}
    else:
        request |= {"method": "POST", "content": content.encode()}
    if draw(st.booleans()):
        request["params"] = {draw(st.sampled_from(["key", "token", "size", "model", secret])): secret}
    return secret, path, request


@lengths(short=150, long=3000)
@pytest.mark.filterwarnings("ignore")
def test_no_secret_is_told(inputs: int, watched: Watched) -> None:
    statuses: set[int] = set()

    def rule(asked: tuple[str, str, dict[str, Any]]) -> None:
        secret, path, request = asked
        method = request["method"]
        answer = watched.client.request(method, path, **{name: value for name, value in request.items() if name != "method"})
        statuses.add(answer.status_code)
        assert answer.status_code < 500
        told = watched.told()
        assert secret not in told
        for always in (KEY, TOKEN, TOKEN.partition(":")[2]):
            assert always not in told
            assert always not in answer.text

    holds(rule, requests(), inputs)
    assert {200, 400, 401, 404, 422} <= statuses
