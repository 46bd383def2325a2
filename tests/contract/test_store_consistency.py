"""Reads ask for Bounded consistency unless this process wrote within the last ten seconds: what is sent to Milvus, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from milvus_coop.store import Collection, Store
from milvus_coop.store.own_writes import OWN_WRITE_S, OwnWrites
from milvus_coop.types import TokenFile
from tests.contract.store_samples import SPEC, make_row, make_rows, unit_vectors
from tests.servers.relay import Relay

REQUESTS = {"Search": milvus_pb2.SearchRequest, "Query": milvus_pb2.QueryRequest}
NO_GUARANTEE = 1
"""The timestamp with which a read waits for nothing."""
KEY = "0" * 32 + "-" + "0" * 32


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def relay(store: Store, store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A relay to the store's Milvus, with two collections in it: one with rows, and one whose tokens are in files."""
    store.create("levels", SPEC).upsert(make_rows(20))
    with Store(store_uri, timeout_s=20, token_store=tmp_path_factory.mktemp("tokens")) as another:
        another.create("levels_in_files", replace(SPEC, tokens=replace(SPEC.tokens, keep="store")))
    server = store._connection._server
    endpoint = store._connection.address.endpoint if server is None else server.endpoint
    with Relay(urlsplit(endpoint).netloc) as relay:
        yield relay


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(relay: Relay, clock: Clock) -> Iterator[Callable[[str], Collection]]:
    """Opens a collection through the relay, as a process does that has not written yet."""
    with Store(relay.uri, timeout_s=20) as through:
        through._connection.own_writes = OwnWrites(clock)
        yield through.open


def levels(relay: Relay, read: Callable[[], object]) -> set[str]:
    """The levels that a read asks for."""
    del relay.calls[:]
    read()
    asked = [REQUESTS[method].FromString(request) for method, request in relay.calls if method in REQUESTS]
    assert asked
    assert not any(request.use_default_consistency for request in asked)
    sent = {common_pb2.ConsistencyLevel.Name(request.consistency_level) for request in asked}
    if sent == {"Bounded"}:  # the server decides by this number how fresh its answer has to be
        assert all(request.guarantee_timestamp > NO_GUARANTEE for request in asked)
    return sent


def reads(collection: Collection) -> list[Callable[[], object]]:
    """Every read that has to be fast, and may therefore be a little behind."""
    query, ids = unit_vectors(1), [make_row(3, unit_vectors(1)[0]).id]
    return [
        lambda: collection.search(query, 3),
        lambda: collection.within("n > 1").search(query, 3, filter="n < 9"),
        lambda: collection.uris(ids),
        lambda: collection.candidates(ids, query[0]),
    ]


def test_levels(relay: Relay, clock: Clock, opened: Callable[[str], Collection]) -> None:
    collection = opened("levels")

    def sent() -> list[set[str]]:
        return [levels(relay, read) for read in reads(collection)]

    assert sent() == [{"Bounded"}] * 4  # it never wrote
    collection.upsert(make_rows(2))
    assert sent() == [{"Session"}] * 4
    clock.now_s += OWN_WRITE_S - 0.1
    assert sent() == [{"Session"}] * 4
    clock.now_s += 0.2
    assert sent() == [{"Bounded"}] * 4
    collection.insert([make_row(30, unit_vectors(1)[0])])
    assert sent() == [{"Session"}] * 4


def test_levels_of_contents(relay: Relay, opened: Callable[[str], Collection]) -> None:
    """The service asks which token files a tenant may use. It has not written."""
    view = opened("levels_in_files").within("n > 1")
    assert levels(relay, lambda: view.contents_of([KEY])) == {"Bounded"}
    assert isinstance(view.content_of(KEY), TokenFile)


def test_a_write_counts_for_its_collection(relay: Relay, opened: Callable[[str], Collection], store: Store) -> None:
    opened("levels").upsert(make_rows(1))
    store.create("levels_of_another", SPEC)
    other = opened("levels_of_another")
    assert levels(relay, lambda: other.search(unit_vectors(1), 1)) == {"Bounded"}


def test_exact_reads(relay: Relay, opened: Callable[[str], Collection]) -> None:
    """They see every write of any process."""
    collection = opened("levels")
    for read in (collection.count, lambda: collection.stamps(["a"])):
        assert levels(relay, read) == {"Strong"}
