"""Clients that search all the time: threads of the SDK, and clients of a gateway. Every call goes into the history."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from benchmarks.campaign.history import Call
from benchmarks.campaign.judge import is_full
from benchmarks.campaign.scenario import Options, Run
from benchmarks.campaign.truth import TEXTS
from milvus_coop import CoopSearch
from milvus_coop.types import SearchResult

CLIENT_TIMEOUT_S = 30.0
HIT = ("id", "rank", "score", "be_rank", "be_score", "ce_score")
FACTS = ("reranked", "reranked_count", "candidates", "reason")

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Sends one search and returns the answer."""


def of_sdk(result: SearchResult) -> dict[str, Any]:
    """An answer of the SDK as the history keeps it."""
    return {
        **{name: getattr(result, name) for name in FACTS},
        "hits": [{name: getattr(hit, name) for name in HIT} for hit in result],
    }


def of_http(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of a gateway as the history keeps it."""
    return {**{name: answer[name] for name in FACTS}, "hits": [{name: hit[name] for name in HIT} for hit in answer["hits"]]}


class StatusError(Exception):
    """An error answer of a gateway. The history keeps its status as the type of the error."""


def ask_sdk(search: CoopSearch) -> Ask:
    """Ask through one `CoopSearch`, which all threads may share."""
    return lambda asked: of_sdk(search.query(asked["text"], limit=asked["limit"], k=asked["k"], deadline_ms=asked["deadline_ms"]))


def ask_http(url: str) -> Ask:
    """Ask a gateway, over connections that stay open."""
    client = httpx.Client(base_url=url, timeout=CLIENT_TIMEOUT_S)

    def ask(asked: dict[str, Any]) -> dict[str, Any]:
        answer = client.post("/v1/search", json=asked)
        if answer.status_code != 200:
            raise type(str(answer.status_code), (StatusError,), {})(answer.text[:300])
        return of_http(answer.json())

    return ask


def clients_of(options: Options, sdk: Ask, url: str) -> list[tuple[str, Ask]]:
    """The clients that a run asks for: those of the SDK ask one function, those of the gateway have connections of their own."""
    return [
        *((f"sdk-{i}", sdk) for i in range(options.sdk_clients)),
        *((f"http-{i}", ask_http(url)) for i in range(options.http_clients)),
    ]


class Load:
    """Threads that search until they are stopped.

    Args:
        campaign: keeps the calls; its options decide the texts and the pauses.
        clients: the name and the function of each client.
        limit, k: of every search.
        deadlines_ms: the deadlines among which each call chooses; None: none.
    """

    def __init__(
        self,
        campaign: Run,
        clients: Sequence[tuple[str, Ask]],
        *,
        limit: int = 5,
        k: int = 20,
        deadlines_ms: Sequence[float | None] = (None,),
    ) -> None:
        self._history = campaign.history
        self._pause_s = campaign.options.pause_ms / 1000
        self._asked = {"limit": limit, "k": k}
        self._deadlines_ms = deadlines_ms
        self._stop = threading.Event()
        self._full_s: dict[str, float] = {}
        self._threads = [
            threading.Thread(
                target=self._run, args=(name, ask, random.Random(f"{campaign.options.seed} {i}")), name=f"campaign-{name}"
            )
            for i, (name, ask) in enumerate(clients)
        ]
        self._names = [name for name, _ in clients]

    def full_since(self, at_s: float) -> bool:
        """True if every client has got a full answer to a call that it made since then."""
        return all(self._full_s.get(name, 0.0) >= at_s for name in self._names)

    def wait_for_recovery(self, within_s: float) -> bool:
        """Wait until every client has a full answer to a call that it makes from now on."""
        began_s, deadline_s = time.monotonic(), time.monotonic() + within_s
        while not self.full_since(began_s):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.05)
        return True

    def _run(self, name: str, ask: Ask, rng: random.Random) -> None:
        while not self._stop.is_set():
            asked = {"text": rng.choice(TEXTS), **self._asked, "deadline_ms": rng.choice(self._deadlines_ms)}
            call: Call = self._history.call(name, "search", asked, lambda asked=asked: ask(asked))  # type: ignore[misc]
            if is_full(call):
                self._full_s[name] = max(self._full_s.get(name, 0.0), call.start)
            self._stop.wait(rng.uniform(0, 2 * self._pause_s))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CLIENT_TIMEOUT_S + 60)
