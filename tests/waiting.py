"""Waits that hold on a busy machine: a gate instead of a delay, and a condition instead of a sleep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import psutil

from milvus_coop import FakeBackend
from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.types import Array

PATIENCE_S = 60.0
"""The time that a test waits for something that takes moments, even on a machine whose cores are all in use."""


class Gate:
    """A slow part of a test: whoever comes to it waits until the test opens it.

    A caller that must not wait for the slow part has kept its promise if it has answered while `passed` is 0. So the test needs no
    clock. The gate opens by itself after `PATIENCE_S`, so that a caller that does wait makes the test fail instead of hang.
    """

    def __init__(self) -> None:
        self.arrived = 0
        """The number of threads that have come to the gate."""
        self.passed = 0
        """The number of threads that have gone through it."""
        self._opened = threading.Event()
        self._counting = threading.Lock()

    def wait(self) -> None:
        """Wait until the gate is open."""
        with self._counting:
            self.arrived += 1
        self._opened.wait(PATIENCE_S)
        with self._counting:
            self.passed += 1

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._opened.set()


class GatedBackend(FakeBackend):
    """A fake backend of which one graph answers only when its gate is open."""

    def __init__(self, spec: BundleSpec, graph: str) -> None:
        super().__init__(spec)
        self.gate = Gate()
        self._gated = graph

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Backend.run`."""
        if graph == self._gated:
            self.gate.wait()
        return super().run(graph, inputs, timeout_s=timeout_s)


def wait_until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Look again and again until the condition holds; fail if it does not hold in time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"it did not come to be within {within_s:g} s"
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    """Ended; whether a zombie of it is left depends on the machine's first process."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
