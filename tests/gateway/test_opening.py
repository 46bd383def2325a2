"""A Milvus that hangs while a collection is opened or looked up, and what is left of a collection that nobody uses any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from starlette.testclient import TestClient

from milvus_coop import FakeBackend, load_bundle
from milvus_coop.serving.gateway.service import Service
from milvus_coop.store import Store
from tests.gateway.conftest import MakeClient
from tests.servers.relay import Relay
from tests.waiting import wait_until

LATE = {"text": "a dog", "deadline_ms": 300}


@pytest.fixture
def relay(filled: Path) -> Iterator[Relay]:
    with Store(filled / "lite.db") as store:
        server = store._connection._server
        assert server is not None
        with Relay(urlsplit(server.endpoint).netloc) as relay:
            yield relay


@pytest.fixture
def client(make_client: MakeClient, relay: Relay) -> TestClient:
    """A client of a service with one thread and no limits of its own that matter; `images` is open, and `captions` is not."""
    backend = FakeBackend(load_bundle("coop-small").spec)
    client = make_client(uri=relay.uri, backend=backend, concurrency=1, timeout_s=100, settings={"timeout_s": 100})
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200
    return client


def service_of(client: TestClient) -> Service:
    found: Service = client.app.state.service  # type: ignore[attr-defined]
    return found


def assert_late(client: TestClient, relay: Relay, **more: Any) -> None:
    """The request gets its 504, and the only thread is free again, while Milvus still hangs."""
    answer = client.post("/v1/search", json={**LATE, **more})
    assert answer.status_code == 504
    assert answer.json()["detail"].startswith("the deadline came before")
    wait_until(lambda: service_of(client)._pool.pending == 0, within_s=30)
    wait_until(lambda: relay.gate.arrived > 0)
    assert relay.gate.passed == 0


def test_a_collection_that_is_not_open_yet(client: TestClient, relay: Relay) -> None:
    """Loading one may take minutes. Meanwhile the others answer, and everybody waits for the same loading."""
    relay.holds = lambda method, request: method == "LoadCollection" and b"captions" in request
    for _ in range(3):
        assert_late(client, relay, collection="captions")
        assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200
    assert relay.gate.passed == 0
    assert relay.gate.arrived == 1
    relay.gate.open()
    image = {"image": ("dog.jpg", Path("examples/images/dog.jpg").read_bytes())}
    assert client.post("/v1/search", data={"collection": "captions"}, files=image).status_code == 200
    assert relay.gate.arrived == 1


def test_everything_hangs(client: TestClient, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milvus_coop.serving.gateway.service.FOLLOW_S", 0.0)
    relay.holds = lambda method, request: True
    for collection in ("images", "captions", "none", "images"):
        assert_late(client, relay, collection=collection)
    relay.gate.open()
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200


def test_the_name_is_looked_up_within_the_deadline(client: TestClient, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milvus_coop.serving.gateway.service.FOLLOW_S", 0.0)
    relay.holds = lambda method, request: method == "DescribeCollection"
    assert_late(client, relay)
    relay.gate.open()
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200


def test_nothing_is_left_of_an_idle_collection(make_client: MakeClient, relay: Relay) -> None:
    backend = FakeBackend(load_bundle("coop-small").spec)
    client = make_client(uri=relay.uri, backend=backend, idle_s=0.2)
    process = psutil.Process()

    def use_and_wait() -> tuple[int, int]:
        """Use a collection until it is closed again, and return the numbers of file descriptors and threads."""
        opened = sum(b"captions" in request for method, request in relay.calls if method == "LoadCollection")
        answer = client.post("/v1/search", json={"text": "a dog", "deadline_ms": 60_000, "collection": "captions"})
        assert answer.status_code == 200
        assert sum(b"captions" in request for method, request in relay.calls if method == "LoadCollection") == opened + 1
        wait_until(lambda: list(service_of(client)._searchers._opened) == ["images"])
        return process.num_fds(), process.num_threads()

    use_and_wait()  # gRPC starts threads that stay
    fds, threads = use_and_wait()
    for _ in range(5):
        use_and_wait()
    wait_until(lambda: process.num_fds() <= fds and process.num_threads() <= threads + 2)
