"""One ingest of `sources.py` in a process of its own, and what it took: seconds, CPU seconds, memory."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.sources_sleep import SLEEP_MS, install  # noqa: E402
from benchmarks.sources_state import read_state  # noqa: E402
from milvus_coop.config import Settings  # noqa: E402
from milvus_coop.cores import available_cores  # noqa: E402
from milvus_coop.ingest import CoopIngest, Progress, ingest_with_ray  # noqa: E402

EVERY_S = 0.5
"""Time between two looks at the processes."""
FROM, TO = 0.2, 0.9
"""The parts of the items between which the steady rate is measured: models are open, and no worker is idle yet."""
MB = 1e6


@dataclass(frozen=True, slots=True)
class Job:
    """An ingest."""

    engine: Literal["local", "ray"]
    source: str
    uri: str
    bundle: str = "coop-small"
    workers: int = 2
    """Of Ray; the local engine has as many threads."""
    length: int = 64
    batch: int = 16
    sleep_ms: float | None = None
    """Time for an image of a backend that only sleeps; None for the models."""
    state: str = ""
    """The file that gets the state of the collection; '' for none."""
    queries: Sequence[str] = ()


class NotEnoughMemoryError(Exception):
    """An ingest was stopped because it left other programs too little memory."""


def run(job: Job, work: Path, *, keep_free_gb: float = 0.0, timeout_s: float = 7200.0) -> dict[str, Any]:
    """Run an ingest in a process of its own, and return what it took.

    Raises:
        NotEnoughMemoryError: less than `keep_free_gb` of memory was free.
        RuntimeError: the ingest failed.
    """
    asked, answer, log = work / "job.json", work / "answer.json", work / "job.log"
    answer.unlink(missing_ok=True)
    asked.write_text(json.dumps(asdict(job)), "utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",  # one process for each core would wait for work that never comes
        "OMP_NUM_THREADS": "1",
    }
    if job.sleep_ms is not None:
        environment[SLEEP_MS] = str(job.sleep_ms)
    with log.open("w") as output:
        process = psutil.Popen([sys.executable, __file__, asked, answer], stdout=output, stderr=output, env=environment)
    watch, deadline = Watch(process), time.monotonic() + timeout_s
    try:
        while process.poll() is None:
            watch.look()
            if psutil.virtual_memory().available < keep_free_gb * 1e9:
                raise NotEnoughMemoryError
            if time.monotonic() > deadline:
                raise RuntimeError(f"an ingest took more than {timeout_s:,.0f} s: {job}")
            time.sleep(EVERY_S)
    finally:
        _end(process, watch)
    if process.returncode or not answer.exists():
        raise RuntimeError(f"an ingest failed: {job}\n{log.read_text()[-3000:]}")
    return {**json.loads(answer.read_text("utf-8")), **watch.seen()}


def _end(process: psutil.Popen, watch: Watch) -> None:
    """End what is still there of the ingest; after a good run that is nothing."""
    if process.poll() is None:
        watch.look()
        process.kill()
    process.wait()
    for pid, known in watch.processes.items():
        if pid != process.pid and known.is_running():
            known.kill()


class Watch:
    """Looks at the memory and the CPU seconds of a process and of those that it started."""

    def __init__(self, driver: psutil.Popen) -> None:
        self._driver = driver
        self.processes: dict[int, psutil.Process] = {}
        self._groups: dict[int, str] = {}
        self._cpu_s: dict[int, float] = {}
        self._private: dict[int, float] = {}

    def look(self) -> None:
        try:
            children = self._driver.children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for process in (self._driver, *children):
            try:
                with process.oneshot():
                    pid, memory, cpu = process.pid, process.memory_info(), process.cpu_times()
                    group = "driver" if pid == self._driver.pid else _group(process.cmdline())
            except psutil.Error:
                continue
            if pid != self._driver.pid:
                self.processes.setdefault(pid, process)
            if self._groups.get(pid, "idle") == "idle":
                self._groups[pid] = group
            self._cpu_s[pid] = cpu.user + cpu.system
            self._private[pid] = max(self._private.get(pid, 0.0), (memory.rss - memory.shared) / MB)

    def seen(self) -> dict[str, Any]:
        """The greatest private memory of a process of each kind in MB, and the CPU seconds of each kind, start included."""
        kinds = sorted(set(self._groups.values()))
        of = {kind: [pid for pid, group in self._groups.items() if group == kind] for kind in kinds}
        return {
            "private_mb": {kind: max(self._private[pid] for pid in of[kind]) for kind in kinds},
            "processes_cpu_s": {kind: sum(self._cpu_s[pid] for pid in of[kind]) for kind in kinds},
            "processes": {kind: len(of[kind]) for kind in kinds},
        }


def _group(command: Sequence[str]) -> str:
    """The kind of a process of Ray's, which tells it in its title."""
    title = " ".join(command)
    if not title.startswith("ray::"):
        return "idle" if "default_worker.py" in title else "ray"
    return "idle" if "IDLE" in title else "worker" if "MapWorker" in title else "helper"


class Marks:
    """The time and the CPU seconds at which so many items were done."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float, int]] = []

    def __call__(self, progress: Progress) -> None:
        self.marks.append((time.monotonic(), time.process_time(), progress.done))

    def steady(self, n: int) -> tuple[float | None, float | None]:
        """Items per second in the middle of the ingest, and the driver's share of a core meanwhile; None if it was too short."""
        inside = [mark for mark in self.marks if FROM * n <= mark[2] <= TO * n]
        if len(inside) < 2 or inside[-1][2] == inside[0][2]:
            return None, None
        (start, cpu, done), (end, cpu_after, done_after) = inside[0], inside[-1]
        return (done_after - done) / (end - start), (cpu_after - cpu) / (end - start)


def _peak_mb() -> float:
    """Peak memory of this program. Unlike `ru_maxrss`, it does not begin with that of the program that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / MB


def ingest(job: Job) -> dict[str, Any]:
    """Run an ingest in this process."""
    threads = job.workers if job.engine == "local" else 1
    settings = Settings(uri=job.uri, bundle=job.bundle, threads=threads, timeout_s=60.0)
    marks, before_mb = Marks(), _peak_mb()
    began, cpu = time.monotonic(), time.process_time()
    if job.engine == "local":
        with CoopIngest(settings=settings) as local:
            report = local.run(job.source, batch=job.batch, threads=threads, on_progress=marks)
    else:
        if job.sleep_ms is not None or job.workers > available_cores():
            _start_ray(job)
        report = ingest_with_ray(
            job.source,
            settings=settings,
            address="local",
            workers=job.workers,
            length=job.length,
            batch=job.batch,
            on_progress=marks,
        )
    seconds, cpu_s, peak_mb = time.monotonic() - began, time.process_time() - cpu, _peak_mb()
    steady, share = marks.steady(report.seen)
    if job.state:
        read_state(settings, job.queries).save(Path(job.state))
    return {
        "items": report.seen,
        "engine_seconds": report.seconds,
        "added": report.added,
        "failed": report.failed,
        "seconds": seconds,
        "per_s": report.seen / seconds,
        "steady_per_s": steady,
        "driver_share": share,
        "driver_cpu_s": cpu_s,
        "before_mb": before_mb,
        "peak_mb": peak_mb,
    }


def _start_ray(job: Job) -> None:
    """A Ray with room for more workers than there are cores, whose workers only sleep."""
    import ray

    hook: dict[str, Any] = {} if job.sleep_ms is None else {"runtime_env": {"worker_process_setup_hook": install}}
    ray.init(address="local", num_cpus=job.workers + 2, include_dashboard=False, logging_level=logging.WARNING, **hook)


if __name__ == "__main__":
    given = Job(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(ingest(given)), "utf-8")
