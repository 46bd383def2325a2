"""Clients that leave before their request or its answer is complete: nobody's fault, and nothing is logged as a failure."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from milvus_coop import FakeBackend, load_bundle
from tests.gateway.conftest import SCOPE, MakeClient
from tests.gateway.rerank.kit import running
from tests.waiting import wait_until

FORM = b"multipart/form-data; boundary=b"
PARTS = (b"", b"--b\r\n", b'--b\r\ncontent-disposition: form-data; name="files"; filename="a"\r\n\r\nxx')
PATHS = ("/v1/search", "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/collections/images/v2/rerank")
REQUESTS = [
    *((path, b"application/json", part) for path in PATHS for part in (b"", b'{"text": "a')),
    *((path, FORM, part) for path in ("/v1/search", "/v1/items") for part in PARTS),
]


# Starlette closes the files of a form that breaks off when they are collected, and not before.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
@pytest.mark.parametrize(("path", "kind", "part"), REQUESTS)
def test_half_a_body(
    make_client: MakeClient, tmp_path: Path, path: str, kind: bytes, part: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(backend=FakeBackend(load_bundle("coop-small").spec), uploads=str(tmp_path / "uploads"))
    headers = [(b"host", b"localhost"), (b"content-type", kind), (b"content-length", b"1000")]
    scope = {**SCOPE, "path": path, "raw_path": path.encode(), "headers": headers}
    messages = iter([{"type": "http.request", "body": part, "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    with caplog.at_level(logging.INFO):
        asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    gc.collect()
    assert not sent
    assert not [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info]
    metrics = client.get("/metrics").text
    assert 'status="499"' in metrics
    assert 'status="500"' not in metrics
    assert 'milvus_coop_failures_total{error="ClientLeft"} 1.0' in metrics


def test_a_closed_connection(tmp_path: Path) -> None:
    """As `test_half_a_body`, through a real server and a real socket."""
    from tests.toy_bundle import make_bundle

    make_bundle(tmp_path)
    with running(tmp_path) as service:
        port = int(service.url.rpartition(":")[2])
        with closing(socket.create_connection(("127.0.0.1", port))) as connection:
            head = b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
            connection.sendall(head + b'{"text": ')
        values = service.service.metrics.registry.get_sample_value
        labels = {"method": "POST", "route": "/v1/search", "status": "499"}
        wait_until(lambda: values("milvus_coop_requests_total", labels) == 1.0)
