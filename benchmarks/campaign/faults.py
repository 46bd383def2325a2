"""Faults of servers, made and repaired while clients go on, and a process that makes a server slow."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.campaign.clock import JUMPS_S, Clock
from benchmarks.campaign.judge import Rules
from benchmarks.campaign.load import Load
from benchmarks.campaign.parts import wait_until
from benchmarks.campaign.scenario import Run
from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.errors import StoreError
from milvus_coop.store import Store
from tests.servers.milvus import MilvusServer
from tests.servers.triton import PATIENT, BreakableTriton

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
    """Triton killed, stopped, slowed, with a full queue, and without its cross-encoder or without the process of that."""
    slowed, held = Slowed(lambda: triton.pid or 0), ExitStack()

    def fill_queue() -> None:
        triton.configure(CROSS_ENCODER, replace(PATIENT, queue_size=1))
        triton.load(CROSS_ENCODER)
        held.enter_context(triton.slow_cross_encoder())

    def empty_queue() -> None:
        held.close()
        triton.configure(CROSS_ENCODER)
        triton.load(CROSS_ENCODER)

    def load_again() -> None:
        triton.unload(CROSS_ENCODER)  # to load what has not changed does nothing, whatever became of its process
        triton.load(CROSS_ENCODER)

    return [
        Fault("Triton killed", triton.kill, triton.start),
        Fault("Triton stopped", triton.freeze, triton.thaw),
        Fault("Triton slowed", slowed.begin, slowed.end),
        Fault("cross-encoder unloaded", lambda: triton.unload(CROSS_ENCODER), lambda: triton.load(CROSS_ENCODER)),
        Fault("Triton's queue full", fill_queue, empty_queue),
        Fault("process of Triton's cross-encoder killed", lambda: triton.kill_process_of(CROSS_ENCODER), load_again),
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


def clock_faults(clock: Clock | None) -> list[Fault]:
    """Jumps of the wall clock; the repair is the jump back. None: no faults."""
    if clock is None:
        return []
    jumps = {f"clock of the gateway {name}": seconds for name, seconds in JUMPS_S.items()}
    return [Fault(name, partial(clock.jump, seconds), partial(clock.jump, 0)) for name, seconds in jumps.items()]


def make_faults(campaign: Run, load: Load, faults: Sequence[Fault]) -> None:
    """Make faults until the time is over, each at least once if there is time; wait for the clients' recovery after each.

    All happen in a random order before one happens a second time. Before and after each such round there is a calm spell, so that
    the latency of the beginning and of the end of a long run can be compared.
    """
    history, rng, recovery_s = campaign.history, campaign.rng, Rules().recovery_s
    faults = [fault for fault in faults if campaign.options.only in fault.name]
    made, waiting = 0, list[Fault]()
    while not campaign.is_over:
        if not waiting:
            time.sleep(campaign.calm_s)
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
    time.sleep(campaign.calm_s)
    campaign.figures["faults made"] = made
