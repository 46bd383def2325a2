"""Connections on which no request comes are closed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import uvicorn

from milvus_coop.serving.gateway.connections import ImpatientProtocol
from tests.waiting import wait_until

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await asyncio.sleep(1.5)  # longer than an idle connection lives
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(app, port=0, http=ImpatientProtocol, timeout_keep_alive=1, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    "sent", [b"", REQUEST[:20], REQUEST, REQUEST + REQUEST[:20]], ids=["nothing", "half", "one", "one and a half"]
)
def test_idle_connections_are_closed(address: tuple[str, int], sent: bytes) -> None:
    with closing(socket.create_connection(address, timeout=60)) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(1000):
            received += part
    assert received.count(b"200 OK") == sent.count(REQUEST)
