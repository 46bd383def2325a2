"""Faults during an ingest on Ray, at random moments: a worker, a node, the driver or Milvus dies, or the object store hangs.

Each scenario ends in the true state: every item once, and a ledger that spares the next run all of the work. The variable
MILVUS_COOP_FAULT_RUNS is the number of times that each scenario runs, with another seed each time. Without it, none does.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from milvus_coop.store import Store
from tests.servers import s3
from tests.servers.milvus import MilvusServer

pytest.importorskip("ray.data")

pytestmark = pytest.mark.filterwarnings("default")  # Ray has its own

SAMPLES = Path(__file__).parents[2] / "examples" / "images"
N_ITEMS = 240
SEEDS = range(int(os.environ.get("MILVUS_COOP_FAULT_RUNS", "1")))
START_S = 90.0
"""Time within which an ingest must begin to encode."""


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of images."""
    folder = tmp_path / "album"
    folder.mkdir()
    samples = sorted(SAMPLES.glob("*.jpg"))
    for i in range(N_ITEMS):
        shutil.copy(samples[i % len(samples)], folder / f"{i:05}.jpg")
    return folder


class Ingest:
    """The command, in a process of its own."""

    def __init__(self, source: str | Path, uri: str | Path, state: str | Path) -> None:
        self._command = [sys.executable, "-m", "milvus_coop", "ingest", str(source), "--engine", "ray", "--address", "local"]
        self._command += ["--workers", "2", "--uri", str(uri), "--state", str(state), "--json", "--threads", "1"]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def workers(self) -> list[psutil.Process]:
        """The processes that encode."""
        found = []
        with suppress(psutil.NoSuchProcess):  # the driver has ended
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # also for a process that is dead and not waited for yet
                    found += [process] if "MapWorker" in " ".join(process.cmdline()) else []
        return found

    def wait_until_it_encodes(self) -> None:
        """Wait until there is a worker."""
        end = time.monotonic() + START_S
        while not self.workers():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "there is no worker"
            time.sleep(0.05)

    def report(self) -> dict[str, Any]:
        """The report at the end."""
        output, errors = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, output + errors
        report: dict[str, Any] = json.loads(output)
        return report

    def again(self) -> dict[str, Any]:
        """The report of the same command, run again."""
        self.process = self._start()
        return self.report()

    def kill(self) -> None:
        """Kill the driver. What it started ends by itself, and here at once, because the next run is a new Ray."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        _, alive = psutil.wait_procs(children, 20)
        for process in alive:
            process.kill()


@contextmanager
def during(ingest: Ingest, fault: Callable[[], object], seed: int) -> Iterator[None]:
    """Run a fault in a thread, at a random moment after the workers have started."""
    problems: list[BaseException] = []

    def strike() -> None:
        try:
            ingest.wait_until_it_encodes()
            time.sleep(random.Random(seed).uniform(0.5, 8.0))
            fault()
        except BaseException as exc:
            problems.append(exc)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        assert problems == []


def check(ingest: Ingest, uri: str | Path, names: set[str]) -> None:
    """Check that every item is there once, and that the ledger spares the next run all work."""
    report = ingest.again()
    assert (report["added"], report["updated"], report["unchanged"], report["failed"]) == (0, 0, 0, 0)
    assert report["skipped"] == len(names)
    with Store(str(uri)) as store:
        found = [row.uri for page in store.open("images").all_rows() for row in page]
    assert len(found) == len(names)
    assert {uri.rpartition("/")[2] for uri in found} == names


def names_in(album: Path) -> set[str]:
    return {path.name for path in album.iterdir()}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_dies(album: Path, tmp_path: Path, seed: int) -> None:
    ingest = Ingest(album, tmp_path / "m.db", tmp_path / "state")

    def fault() -> None:
        if workers := ingest.workers():  # there is none once the ingest is finished
            with suppress(psutil.NoSuchProcess):
                random.Random(seed).choice(workers).kill()

    with during(ingest, fault, seed):
        report = ingest.report()
    assert report["added"] == N_ITEMS
    check(ingest, tmp_path / "m.db", names_in(album))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_driver_dies(album: Path, tmp_path: Path, seed: int) -> None:
    ingest = Ingest(album, tmp_path / "m.db", tmp_path / "state")
    with during(ingest, ingest.kill, seed):
        pass
    report = ingest.again()
    assert report["added"] + report["unchanged"] + report.get("skipped", 0) == N_ITEMS
    check(ingest, tmp_path / "m.db", names_in(album))


@pytest.mark.server
@pytest.mark.parametrize("seed", SEEDS)
def test_milvus_dies_and_comes_back(album: Path, tmp_path: Path, seed: int) -> None:
    with MilvusServer() as server:
        ingest = Ingest(album, server.uri, tmp_path / "state")

        def fault() -> None:
            server.kill()
            time.sleep(5)
            server.start()

        with during(ingest, fault, seed):
            report = ingest.report()
        # What was written before the fault counts as unchanged when its part is ingested again.
        assert (report["added"] + report["unchanged"], report["failed"]) == (N_ITEMS, 0)
        check(ingest, server.uri, names_in(album))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_object_store_hangs_and_comes_back(album: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)

        def fill() -> None:
            bucket = s3.bucket("faults")
            for path in album.iterdir():
                s3.put(f"s3://{bucket}/album/{path.name}", path.read_bytes())

        def fault() -> None:  # not killed, because its objects are in its memory
            server.freeze()
            time.sleep(15)
            server.thaw()

        fill()
        ingest = Ingest("s3://faults/album", tmp_path / "m.db", tmp_path / "state")
        with during(ingest, fault, seed):
            report = ingest.report()
        assert (report["added"], report["failed"]) == (N_ITEMS, 0)
        check(ingest, tmp_path / "m.db", names_in(album))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_dies(album: Path, tmp_path: Path, seed: int) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from milvus_coop import Settings
    from milvus_coop.ingest import Progress, ingest_with_ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1)]
    after = random.Random(seed).randrange(1, N_ITEMS)

    def fault(progress: Progress) -> None:
        if nodes and progress.done >= after:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            cluster.add_node(num_cpus=1)

    try:
        ray.init(address=cluster.address)
        settings = Settings(uri=str(tmp_path / "m.db"), threads=1)
        state = str(tmp_path / "state")
        report = ingest_with_ray(album, settings=settings, workers=2, length=16, state=state, on_progress=fault)
        assert nodes == []
        assert (report.added, report.failed) == (N_ITEMS, 0)
        report = ingest_with_ray(album, settings=settings, workers=2, length=16, state=state)
        assert (report.seen, report.skipped) == (0, N_ITEMS)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
    with Store(str(tmp_path / "m.db")) as store:
        found = [row.uri for page in store.open("images").all_rows() for row in page]
    assert sorted(Path(uri).name for uri in found) == sorted(names_in(album))
