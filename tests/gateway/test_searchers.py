"""Opened collections: bounded, and closed only when nobody uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from milvus_coop import CoopIngest, FakeBackend, load_bundle
from milvus_coop.config import Settings
from milvus_coop.deadline import Deadline
from milvus_coop.errors import CollectionNotFoundError, DeadlineExceededError
from milvus_coop.serving.gateway.searchers import OPENING, Searchers
from milvus_coop.store import Store
from tests.gateway.conftest import EXAMPLES, MakeClient
from tests.waiting import Gate


class Opened:
    """Stands for a `CoopSearch`: it knows whether it is open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def searchers(limit: int, made: list[Opened], clock: Callable[[], float] = time.monotonic) -> Searchers:
    def open(name: str) -> Any:
        if name == "none":
            raise CollectionNotFoundError("there is no collection 'none'")
        made.append(Opened(name))
        return made[-1]

    return Searchers(open, limit, clock)


def use(some: Searchers, name: str) -> None:
    with some.using(name) as found:
        assert found.name == name  # type: ignore[attr-defined]
        assert not found.closed  # type: ignore[attr-defined]


def test_new_is_what_was_opened_a_moment_ago() -> None:
    now_s = [0.0]
    some = searchers(1, [], lambda: now_s[0])
    with some.using("a") as first:
        now_s[0] = 1.0
        assert some.is_new(first, 2.0)
        now_s[0] = 3.0
        assert not some.is_new(first, 2.0)
        some.forget(first)
        with some.using("a") as second:
            assert second is not first
            assert some.is_new(second, 2.0)
            assert not some.is_new(first, 2.0)  # it is opened again anyway
    some.close()


def test_the_one_that_was_not_used_for_the_longest_time_is_closed() -> None:
    made: list[Opened] = []
    some = searchers(2, made)
    for name in "abac":
        use(some, name)
    assert [(opened.name, opened.closed) for opened in made] == [("a", 0), ("b", 1), ("c", 0)]
    some.close()
    assert [opened.closed for opened in made] == [1, 1, 1]


def test_what_is_in_use_is_closed_afterwards() -> None:
    made: list[Opened] = []
    some = searchers(1, made)
    with some.using("a") as first, some.using("a"):
        use(some, "b")
        assert not made[0].closed
        some.forget(first)
        some.forget(first)
        with some.using("a") as second:
            assert second is not first
        some.close()
        assert not made[0].closed
    assert [opened.closed for opened in made] == [1, 1, 1]


def test_what_nobody_uses_any_more_is_closed() -> None:
    made: list[Opened] = []
    now_s = [0.0]
    some = searchers(9, made, clock=lambda: now_s[0])
    for name in "abc":
        use(some, name)
    with some.using("c"):
        now_s[0] = 11.0
        use(some, "d")
        some.close_idle(10, keep="a")
        assert [(opened.name, opened.closed) for opened in made] == [("a", 0), ("b", 1), ("c", 0), ("d", 0)]
    some.close_idle(10, keep="a")
    assert [opened.closed for opened in made] == [0, 1, 0, 0]  # c was in use until now
    use(some, "b")
    assert len(made) == 5
    some.close()
    assert {opened.closed for opened in made} == {1}


def test_an_opening_that_hangs_holds_up_nobody_else() -> None:
    gate, made = Gate(), list[Opened]()

    def open(name: str) -> Any:
        if name.startswith("slow"):
            gate.wait()
        made.append(Opened(name))
        return made[-1]

    some = Searchers(open, 99)
    for name in ("slow", *(f"slow {i}" for i in range(OPENING))):
        with pytest.raises(DeadlineExceededError, match="before the collection was open"), some.using(name, Deadline(0.05)):
            pass
    assert gate.arrived == OPENING  # the last one was never begun
    assert gate.passed == 0
    gate.open()
    use(some, "slow")
    some.close()
    assert len(made) == len({opened.name for opened in made}) == OPENING
    assert {opened.closed for opened in made} == {1}


def test_what_cannot_be_opened() -> None:
    some = searchers(1, [])
    for _ in range(2):
        with pytest.raises(CollectionNotFoundError):
            use(some, "none")
    assert len(some) == 0


def test_many_threads() -> None:
    made: list[Opened] = []
    some = searchers(2, made)
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        random = Random(seed)
        start.wait()
        for _ in range(300):
            name = random.choice("abcde")
            with some.using(name) as found:
                assert found.name == name  # type: ignore[attr-defined]
                assert not found.closed  # type: ignore[attr-defined]
                if random.random() < 0.1:
                    some.forget(found)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(some) <= 2
    some.close()
    assert {opened.closed for opened in made} == {1}


def test_collections_of_a_service(make_client: MakeClient, tmp_path: Path) -> None:
    backend = FakeBackend(load_bundle("coop-small").spec)
    settings = Settings(uri=str(tmp_path / "lite.db"))
    names = ("images", "second", "third")
    for name in names:
        with CoopIngest(name, settings=settings, models=backend) as ingest:
            ingest.run([EXAMPLES / "images" / "dog.jpg"])
    client = make_client(uri=tmp_path / "lite.db", backend=backend, max_collections=1)
    for name in names * 2:
        answer = client.post("/v1/search", json={"text": "a dog", "collection": name})
        assert (answer.status_code, answer.json()["collection"]) == (200, name)
    assert len(client.app.state.service._searchers) == 1  # type: ignore[attr-defined]


def test_an_alias_that_moves_is_followed(make_client: MakeClient, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next search is one in the collection that the alias names now. One of another bundle is an error, not a wrong answer."""
    monkeypatch.setattr("milvus_coop.serving.gateway.service.FOLLOW_S", 0.0)
    with Store(database) as store:
        spec = load_bundle("coop-small").spec
        store.create("empty", spec)
        store.create("foreign", replace(spec, name="another"))
        store.aliases.set("live", "images")
        client = make_client(settings={"uri": str(database)})

        def search() -> Any:
            return client.post("/v1/search", json={"text": "a dog", "collection": "live", "limit": 3})

        assert len(search().json()["hits"]) == 3
        store.aliases.switch("live", "empty")
        assert search().json()["hits"] == []
        store.aliases.switch("live", "foreign", other_bundle=True)
        assert search().status_code >= 400
        assert "another" in search().text
        store.aliases.switch("live", "images", other_bundle=True)
        assert len(search().json()["hits"]) == 3
