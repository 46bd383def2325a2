"""Processes of `peers.py`: each contestant has its own, so that it has its own peak of memory, and they take turns.

A contestant is a class that is made from the folder with the models, and has methods that do one piece of work. This module imports
nothing but the standard library, because a contestant may run in another environment than this package.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}


class DoesNotRunError(Exception):
    """A contestant that is not installed here, or does not run; the message is the reason."""


class Contestant:
    """A process that does pieces of work when it is told to.

    Args:
        where: the module in `benchmarks` and the class of the contestant, as in `peers_encoders:FastEmbed`.
        options: the arguments of the class.
        cores: number of threads that every library may use.
        log: the file for what the libraries print.
        python: the interpreter; by default the one that runs now.

    Raises:
        DoesNotRunError: the contestant did not start.
    """

    def __init__(self, where: str, options: Mapping[str, Any], cores: int, log: Path, python: str | None = None) -> None:
        environment = {**os.environ, **QUIET, **dict.fromkeys(THREADS, str(cores)), "PYTHONPATH": str(ROOT)}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python or sys.executable, "-m", "benchmarks.peers_kit", where, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                cwd=ROOT,
            )
        self._log = log
        self.facts = self._answer()

    def turn(self, work: str, *arguments: object) -> dict[str, Any]:
        """Do a piece of work; return its `seconds`, its `cpu_s`, and what the method returned.

        Raises:
            DoesNotRunError: it failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([work, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> dict[str, Any]:
        """End the process; return its `peak_mb`, with that of the largest of its children."""
        if self._process.poll() is not None:
            return {}
        found = self.turn("end")
        self._process.communicate()
        return found

    def kill(self) -> None:
        """End the process at once if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise DoesNotRunError(f"the process ended: {self._log.read_text()[-300:]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.kill()
            raise DoesNotRunError(answer["error"])
        return answer


def _cpu_s() -> float:
    mine, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def _peaks() -> dict[str, float]:
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"peak_mb": peaks[0], "child_peak_mb": peaks[1]}


def _reason(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0] if lines else ''}"[:300]


def serve(where: str, options: Mapping[str, Any]) -> None:
    """Be the process of a contestant: answer on what was standard output, and send what libraries print to standard error."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    def do(run: Callable[[], Any]) -> Any:
        try:
            return run()
        except Exception as exc:
            import traceback

            traceback.print_exc()
            say({"error": _reason(exc)})
            raise SystemExit(1) from exc

    module, _, name = where.partition(":")
    contestant = do(lambda: getattr(import_module(f"benchmarks.{module}"), name)(**options))
    say({"started": True, **contestant.facts})
    for line in sys.stdin:
        work, *arguments = json.loads(line)
        if work == "end":
            close = getattr(contestant, "close", None)
            if close:
                do(close)
            say(_peaks())
            return
        cpu, start = _cpu_s(), time.perf_counter()
        found = do(lambda work=work, arguments=arguments: getattr(contestant, work)(*arguments))  # type: ignore[misc]
        seconds = time.perf_counter() - start
        say({"seconds": seconds, "cpu_s": _cpu_s() - cpu, **(found or {})})


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def versions(names: Sequence[str]) -> dict[str, str]:
    """The installed versions of packages."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
