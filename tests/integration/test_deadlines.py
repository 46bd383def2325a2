"""A deadline bounds the whole call, whatever hangs, and calls against something that hangs do not pile up."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, load_bundle
from milvus_coop.bundle import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from milvus_coop.elsewhere.location import parse_location
from milvus_coop.errors import (
    BackendTimeoutError,
    DeadlineExceededError,
    InvalidArgumentError,
    MilvusCoopError,
    TokenStoreError,
)
from milvus_coop.search.workers import THREADS
from milvus_coop.store.token_store import TokenStore, token_key
from milvus_coop.types import Array
from tests.waiting import GatedBackend, wait_until

SPEC = load_bundle("coop-small").spec
N_IMAGES = 20
CALLERS = 25
CALLS = 200


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deadlines")
    for i in range(N_IMAGES):
        Image.new("RGB", (32, 32), (10 * i, 100, 200)).save(folder / f"{i:02}.png")
    with CoopIngest("images", uri=folder / "lite.db", models=FakeBackend(SPEC)) as ingest:
        assert ingest.run(sorted(folder.glob("*.png"))).added == N_IMAGES
    return folder / "lite.db"


@pytest.fixture
def hanging(database: Path) -> Iterator[Callable[[str], tuple[CoopSearch, GatedBackend]]]:
    """Opens a search of which one graph hangs until the end of the test, or until the test opens the gate."""
    opened: list[tuple[CoopSearch, GatedBackend]] = []

    def make(graph: str) -> tuple[CoopSearch, GatedBackend]:
        backend = GatedBackend(SPEC, graph)
        opened.append((CoopSearch("images", uri=database, models=backend), backend))
        return opened[-1]

    yield make
    for search, backend in opened:
        backend.gate.open()
        search.close()


def count_threads(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


@pytest.mark.parametrize("graph", [TEXT_ENCODER, IMAGE_ENCODER])
def test_an_encoder_in_this_process_that_hangs(hanging: Callable[[str], tuple[CoopSearch, GatedBackend]], graph: str) -> None:
    search, backend = hanging(graph)
    query: dict[str, Any] = {"text": "a dog"} if graph == TEXT_ENCODER else {"image": Image.new("RGB", (9, 9))}
    several: dict[str, Any] = {f"{name}s": [value] for name, value in query.items()}
    calls: list[Callable[[], object]] = [
        lambda: search.query(**query, deadline_ms=50),
        lambda: search.query_many(**several, deadline_ms=50),
        lambda: search.rerank(**query, ids=["a"], deadline_ms=50),
    ]
    for call in calls:
        with pytest.raises(DeadlineExceededError, match="the deadline came before the query was encoded") as caught:
            call()
        assert isinstance(caught.value, TimeoutError)
    assert backend.gate.passed == 0  # nobody waited for it


def test_a_cross_encoder_in_this_process_that_hangs(hanging: Callable[[str], tuple[CoopSearch, GatedBackend]]) -> None:
    search, backend = hanging(CROSS_ENCODER)
    result = search.query("a dog", deadline_ms=3000)
    assert backend.gate.passed == 0
    assert [hit.be_rank for hit in result] == list(range(1, 11))
    assert (result.reranked, result.reranked_count) == (False, 0)
    assert result.reason == f"the deadline came after 0 of {N_IMAGES} candidates"
    backend.gate.open()
    assert search.query("a dog", deadline_ms=60_000).reranked


def test_a_database_in_this_process_that_is_busy(database: Path) -> None:
    with CoopSearch("images", uri=database, models=FakeBackend(SPEC)) as search:
        began, end = threading.Event(), threading.Event()

        def keep_busy() -> None:
            with search.collection._connection.reading():
                began.set()
                end.wait()

        holder = threading.Thread(target=keep_busy)
        holder.start()
        began.wait()
        try:
            for _ in range(3):
                with pytest.raises(DeadlineExceededError, match="before candidates were retrieved"):
                    search.query("a dog", deadline_ms=100)
        finally:
            end.set()
            holder.join()
        assert search.query("a dog", deadline_ms=60_000).reranked


def test_a_limit_that_comes_before_the_deadline(database: Path) -> None:
    """It keeps its own error."""
    backend = FakeBackend(SPEC)
    with CoopSearch("images", uri=database, models=backend) as search:
        backend.failures[TEXT_ENCODER] = BackendTimeoutError("text_encoder did not answer within 3 s")
        with pytest.raises(BackendTimeoutError, match="within 3 s"):
            search.query("a dog", deadline_ms=60_000)


def test_errors_and_context_cross_the_thread(database: Path) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    seen: list[tuple[str, int]] = []

    class Watched(FakeBackend):
        def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
            seen.append((variable.get(), threading.get_ident()))
            return super().run(graph, inputs, timeout_s=timeout_s)

    with CoopSearch("images", uri=database, models=Watched(SPEC)) as search:
        with pytest.raises(InvalidArgumentError, match="the text"):
            search.query(" ", deadline_ms=60_000)
        variable.set("mine")
        assert search.query("a dog").reranked
        assert set(seen) == {("mine", threading.get_ident())}  # without a deadline, no other thread takes part
        seen.clear()
        assert search.query("a dog", deadline_ms=60_000).reranked
        assert {value for value, _ in seen} == {"mine"}
        assert threading.get_ident() not in {thread for _, thread in seen}
    with pytest.raises(MilvusCoopError, match="closed"):
        search.query("a dog", deadline_ms=60_000)


def test_calls_do_not_pile_up(hanging: Callable[[str], tuple[CoopSearch, GatedBackend]]) -> None:
    """Some threads hang, and no call starts more: 200 calls, and fewer threads."""
    before = count_threads("milvus-coop-search")  # those of other tests
    search, backend = hanging(TEXT_ENCODER)

    def ask(_: int) -> str:
        with pytest.raises(DeadlineExceededError) as caught:
            search.query("a dog", deadline_ms=20)
        return str(caught.value)

    with ThreadPoolExecutor(CALLERS) as pool:
        assert len(list(pool.map(ask, range(CALLS)))) == CALLS
    assert backend.gate.passed == 0
    assert backend.gate.arrived <= THREADS
    assert count_threads("milvus-coop-search") <= before + THREADS
    backend.gate.open()
    wait_until(lambda: backend.gate.passed == backend.gate.arrived)
    assert CROSS_ENCODER not in backend.rows  # a search whose caller has left does not go on
    assert search.query("a dog", deadline_ms=60_000).reranked


def test_a_stopped_object_store_keeps_no_threads_and_no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    with socket.create_server(("127.0.0.1", 0), backlog=512) as mute:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{mute.getsockname()[1]}",
        }.items():
            monkeypatch.setenv(name, value)
        store = TokenStore.at(parse_location("s3://stopped/tokens"))
        keys = [token_key(f"{i:032x}", "b" * 32) for i in range(50)]
        threads: list[int] = []

        def read(_: int) -> None:
            with pytest.raises(TokenStoreError, match=r"did not answer within 0\.1 s"):
                store.read(keys, 10, timeout_s=0.1)
            threads.append(threading.active_count())

        before = threading.active_count()
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(read, range(CALLS)))
        assert len(threads) == CALLS
        assert max(threads) <= before + CALLERS + 8  # a few of the driver's own, whatever the number of calls
        loop = store._files._system.loop

        async def requests() -> int:
            return len(asyncio.all_tasks()) - 1

        wait_until(lambda: asyncio.run_coroutine_threadsafe(requests(), loop).result() < 20)
