"""The processes and readings that scenarios share: the command of milvus-coop, a gateway that can be restarted, and the state."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.campaign.clock import Clock
from benchmarks.campaign.history import History
from milvus_coop.store import CollectionView, Store
from tests.servers.milvus import free_ports

COMMAND = (sys.executable, "-m", "milvus_coop")
READY_S = 60.0
PATIENCE_S = 120.0
SAMPLE_S = 1.0
"""Time between two samples of memory."""

Limits = Mapping[int, int]
"""Resource limits of a process, by number (`resource.RLIMIT_NOFILE`, ...)."""


class RunError(Exception):
    """A command ended with an exit code that is not 0, or was killed."""


def start(
    arguments: Sequence[object],
    limits: Limits | None = None,
    output: Any = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start milvus-coop with one thread for models."""

    def limit() -> None:
        for number, value in (limits or {}).items():
            resource.setrlimit(number, (value, value))

    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=output,
        stderr=output,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MILVUS_COOP_THREADS": "1", **(environment or {})},
        preexec_fn=limit if limits else None,
    )


def run(arguments: Sequence[object], *, kill_after_s: float | None = None, limits: Limits | None = None) -> dict[str, Any]:
    """Run a command to its end, or kill it with SIGKILL after a while. Returns its JSON, if it prints some.

    Raises:
        RunError: it was killed or failed.
    """
    process = start(arguments, limits)
    try:
        out, err = process.communicate(timeout=kill_after_s or PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RunError("killed") from None
    if process.returncode != 0:
        raise RunError(f"exit code {process.returncode}: {err[-400:]}")
    answer: dict[str, Any] = json.loads(out)
    return answer


class Gateway:
    """`milvus-coop serve` on a port of its own, which it keeps when it is started again.

    Args:
        arguments: further arguments of the command.
        log: the file for what it prints.
        own_clock: let the campaign move its wall clock, if this machine has a C compiler.
    """

    def __init__(self, arguments: Sequence[object], log: Path, *, own_clock: bool = False) -> None:
        self.clock = Clock(log.parent) if own_clock and Clock.is_possible() else None
        (self.port,) = free_ports(1)
        self.arguments = ("serve", "--port", self.port, "--log", "json", *arguments)
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self._log.open("a") as log:
            self._process = start(self.arguments, output=log, environment=self.clock.environment if self.clock else None)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"the gateway did not start: {self._log.read_text()[-1000:]}")

    def kill(self) -> None:
        """What a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Let it finish what it does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(READY_S)

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()


class Sampler:
    """Records the memory of a gateway and of this process, which is that of the SDK, all through a `with` block."""

    def __init__(self, history: History, gateway: Gateway) -> None:
        self._history = history
        self._gateway = gateway
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="campaign-sampler")

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for name, pid in (("gateway", self._gateway.pid), ("SDK process", os.getpid())):
                with suppress(psutil.Error):  # it is being killed
                    self._history.sample(name, pid, psutil.Process(pid).memory_info().rss / 1e6)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()


def rows_of(collection: CollectionView) -> dict[str, Any]:
    """All rows, and their number as Milvus counts them."""
    rows = [row for page in collection.all_rows() for row in page]
    listed = [{"id": r.id, "digest": r.digest, "embedding": [round(float(x), 5) for x in r.embedding]} for r in rows]
    return {"rows": listed, "count": collection.count()}


def state(uri: str, collection: str, token_store: str = "") -> dict[str, Any]:
    """Open a database and read all rows of a collection; a collection that does not exist yet has none."""
    with Store(uri, token_store=token_store, timeout_s=30) as store:
        if collection not in {info.name for info in store.list()}:
            return {"rows": [], "count": 0}
        return rows_of(store.open(collection))


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Look again and again; False if the condition did not come to hold in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
