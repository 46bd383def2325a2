"""Clients that mean ill, or send nonsense by the million: they get a short answer, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from milvus_coop import CoopSearch, FakeBackend, load_bundle
from milvus_coop.config import Settings
from milvus_coop.errors import CollectionNotFoundError
from milvus_coop.serving.gateway.logs import JsonLines, ReadableLines
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.rerank.cohere import CohereRequest
from milvus_coop.serving.gateway.rerank.jina import JinaRequest
from milvus_coop.serving.gateway.rerank.protocol import Body
from milvus_coop.serving.gateway.rerank.tei import TeiRequest
from milvus_coop.serving.gateway.service import Service
from tests.gateway.conftest import EXAMPLES, SCOPE, MakeClient

MANY = 10_000
SHORT = 1000
"""Characters of an answer that repeats nothing at length."""


@pytest.fixture
def fake() -> FakeBackend:
    return FakeBackend(load_bundle("coop-small").spec)


@pytest.mark.parametrize(
    ("body", "name"), [(CohereRequest, "documents"), (JinaRequest, "documents"), (TeiRequest, "texts")], ids=lambda v: str(v)
)
@pytest.mark.parametrize("entry", [1, {}, []], ids=str)
def test_of_many_wrong_documents_one_is_an_error(body: type[Body], name: str, entry: object) -> None:
    with pytest.raises(ValidationError) as caught:
        body.model_validate({"query": "a", name: ["a", *[entry] * MANY]})
    assert caught.value.error_count() <= 2  # one for each form that a document may have


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/search", {str(i): i for i in range(MANY)}, 422),
        ("/v1/search", {"k" * 100_000: 1}, 422),
        ("/v1/search", {"text": "a", "output_fields": [1] * MANY}, 422),
        ("/v1/search", {"text": "a", "filter": "x" * 100_000}, 422),
        ("/v1/embeddings", {"input": [1] * MANY}, 400),
        ("/v1/rerank", {"query": "a", "documents": [1] * MANY}, 400),
        ("/v2/rerank", {"query": "a", "documents": [1] * MANY}, 400),
        ("/rerank", {"query": "a", "texts": [1] * MANY}, 422),
    ],
    ids=["names", "a long name", "output_fields", "filter", "embeddings", "v1/rerank", "v2/rerank", "rerank"],
)
def test_answers_to_nonsense_are_short(client: TestClient, path: str, body: dict[str, Any], status: int) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert len(answer.text) < SHORT


def test_an_origin_that_is_no_address(client: TestClient) -> None:
    assert client.get("/v1/collections", headers={"origin": "http://["}).status_code == 403


def test_logs_hold_nothing_that_a_terminal_obeys() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "request", None, None)
    facts = {"path": "/a\nrequest path=/forged\x1b[2J\x9b31m\u2028"}
    record.__dict__["facts"] = facts
    for formatter in (ReadableLines(), JsonLines()):
        line = formatter.format(record)
        assert line.isprintable()
    assert json.loads(JsonLines().format(record))["path"] == facts["path"]


def test_methods_that_a_route_does_not_have_are_one_metric(make_client: MakeClient, fake: FakeBackend) -> None:
    client = make_client(backend=fake)
    for method in ("PURGE", "FOO1", "FOO2"):
        assert client.request(method, "/v1/search").status_code == 405
    assert 'milvus_coop_requests_total{method="-",route="/v1/search",status="405"} 3.0' in client.get("/metrics").text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_head(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == 200


def test_deep_metadata_is_refused(make_client: MakeClient, database: Path, tmp_path: Path, fake: FakeBackend) -> None:
    """It would be stored, and then no answer that holds it could be written."""
    client = make_client(uri=database, uploads=str(tmp_path / "uploads"), backend=fake)
    picture = (EXAMPLES / "images" / "dog.jpg").read_bytes()
    deep = '{"a": ' + "[" * 300 + "]" * 300 + "}"
    refused = client.post("/v1/items", files=[("files", ("x", picture))], data={"metadata": deep})
    assert refused.status_code == 400
    assert "nested too deeply" in refused.json()["detail"]
    assert client.post("/v1/items", files=[("files", ("x", picture))], data={"metadata": '{"a": [[[1]]]}'}).status_code == 200
    assert client.post("/v1/search", json={"text": "a", "limit": 50, "output_fields": ["*"]}).status_code == 200


def test_uploads_that_wait_for_each_other_take_no_slot_of_searches(filled: Path, fake: FakeBackend) -> None:
    service = Service(Settings(uri=str(filled / "lite.db")), GatewayOptions(concurrency=1), backend=fake)
    released = threading.Event()

    async def ask() -> str:
        uploads = [asyncio.create_task(service.run_upload(released.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(service.run(lambda: "found"), 10)
        finally:
            released.set()
            assert await asyncio.gather(*uploads) == [True, True, True]

    try:
        assert asyncio.run(ask()) == "found"
    finally:
        service.close()


def test_a_dropped_collection_is_opened_again_once(filled: Path, fake: FakeBackend) -> None:
    """Of two requests that find it gone, the second must not close what the first has opened."""
    service = Service(Settings(uri=str(filled / "lite.db")), GatewayOptions(), backend=fake)
    stale = service.search(None, lambda searcher: searcher, within="")
    opened: list[CoopSearch] = []

    def first(searcher: CoopSearch) -> None:
        if searcher is stale:
            raise CollectionNotFoundError("it was dropped")
        opened.append(searcher)

    def second(searcher: CoopSearch) -> None:
        if searcher is stale:
            service.search(None, first, within="")
        first(searcher)

    try:
        service.search(None, second, within="")
        assert len(opened) == 2
        assert opened[0] is opened[1]
        assert opened[0].info().count
    finally:
        service.close()


def test_a_form_whose_picture_was_not_chosen(client: TestClient) -> None:
    """What a browser sends of an empty `<input type=file>`."""
    body = (
        '--x\r\ncontent-disposition: form-data; name="text"\r\n\r\na dog\r\n'
        '--x\r\ncontent-disposition: form-data; name="image"; filename=""\r\n\r\n\r\n--x--\r\n'
    )
    answer = client.post("/v1/search", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 200, answer.text


def test_bodies_that_are_not_complete_are_held_up_to_a_limit(make_client: MakeClient, fake: FakeBackend) -> None:
    """Each may be as large as a body may be; many of them together may not."""
    client = make_client(max_body_mb=1, timeout_s=30, backend=fake)

    async def hold() -> list[int]:
        released = asyncio.Event()
        statuses: list[int] = []

        async def one() -> None:
            parts = iter([b" " * (2**20 - 1)])

            async def receive() -> dict[str, Any]:
                if (part := next(parts, None)) is not None:
                    return {"type": "http.request", "body": part, "more_body": True}
                await released.wait()
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await client.app(dict(SCOPE), receive, send)

        asking = [asyncio.create_task(one()) for _ in range(10)]
        while len(statuses) < 2:
            await asyncio.sleep(0.01)
        early = list(statuses)
        released.set()
        await asyncio.gather(*asking)
        assert sorted(statuses) == [422] * 8 + [429] * 2
        return early

    assert asyncio.run(asyncio.wait_for(hold(), 20)) == [429, 429]
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200  # what was held is free again
