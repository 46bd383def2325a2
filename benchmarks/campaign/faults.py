"""Faults of servers, made and repaired while clients go on, and a process that makes a server slow."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.campaign.history import History
from benchmarks.campaign.load import Load
from benchmarks.campaign.parts import wait_until
from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.errors import StoreError
from milvus_coop.store import Store
from tests.servers.milvus import MilvusServer
from tests.servers.triton import BreakableTriton

Action = Callable[[], object]

LOAD_S = 120.0

STOPPED_S, GOING_S = 0.25, 0.05
"""How long a slowed process stands still and how long it runs, in turns."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to break a part, and the way to repair it. The repair returns when the part works again."""

    name: str
    make: Action
    repair: Action


class Slowed:
    """Stops and continues a process all the time."""

    def __init__(self, pid: Callable[[], int]) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="campaign-slowed")
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pid = self._pid()
        while not self._stop.is_set():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(STOPPED_S)
                os.kill(pid, signal.SIGCONT)
            self._stop.wait(GOING_S)


def triton_faults(triton: BreakableTriton) -> list[Fault]:
    """Triton killed, stopped, slowed, and without its cross-encoder."""
    slowed = Slowed(lambda: triton.pid or 0)
    return [
        Fault("Triton killed", triton.kill, triton.start),
        Fault("Triton stopped", triton.freeze, triton.thaw),
        Fault("Triton slowed", slowed.begin, slowed.end),
        Fault("cross-encoder unloaded", lambda: triton.unload(CROSS_ENCODER), lambda: triton.load(CROSS_ENCODER)),
    ]


def milvus_faults(milvus: MilvusServer, collection: str, rows: int) -> list[Fault]:
    """Milvus killed, stopped, and restarted at once.

    A repair is over when a client that is opened then counts all rows. A Milvus 2.3.5 that was killed answers after 8 s, and then
    says for half a minute that it is loading its collections.
    """

    def start() -> None:
        try:
            milvus.start()
        except RuntimeError:  # a busy machine: it was not ready in time and is stopped
            milvus.start()
        if not wait_until(lambda: _rows_of(milvus, collection) == rows, LOAD_S):
            raise RuntimeError(f"Milvus did not load its collection within {LOAD_S:g} s")

    return [
        Fault("Milvus killed", milvus.kill, start),
        Fault("Milvus stopped", milvus.freeze, milvus.thaw),
        Fault("Milvus restarted", milvus.stop, start),
    ]


def _rows_of(milvus: MilvusServer, collection: str) -> int:
    """The number of rows that a new client finds; -1 if it finds no collection."""
    with suppress(StoreError), Store(milvus.uri, timeout_s=3.0) as store:
        return store.describe(collection).count
    return -1


def make_faults(
    history: History,
    load: Load,
    faults: Sequence[Fault],
    rng: random.Random,
    *,
    is_over: Callable[[], bool],
    recovery_s: float,
    only: str = "",
) -> int:
    """Make faults until the time is over, each at least once; wait for the clients' recovery after each. Returns their number.

    Args:
        history: where the events are kept.
        load: the clients.
        faults: what can happen. All happen in a random order before one happens a second time.
        rng: decides the order and the times.
        is_over: whether the time is over.
        recovery_s: how long clients have to recover; the judge finds those that did not.
        only: part of the name of the faults to make.
    """
    faults = [fault for fault in faults if only in fault.name]
    made, waiting = 0, list[Fault]()
    while not is_over():
        if not waiting:
            waiting = rng.sample(list(faults), len(faults))
        fault = waiting.pop()
        history.event(fault.name, "fault")
        fault.make()
        if fault.name != "Milvus restarted":
            time.sleep(rng.uniform(1.0, 5.0))
        fault.repair()
        history.event(fault.name, "repair")
        load.wait_for_recovery(recovery_s + 5.0)
        time.sleep(rng.uniform(0.5, 1.5))
        made += 1
    return made
