"""A history: every call of every client, every fault and the memory of the processes, in a file that is only appended to.

It has one JSON object per line. Times are seconds of the machine's monotonic clock, which all processes share and which no change
of the date moves.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from milvus_coop import errors

LONGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client."""

    client: str
    op: str
    """`search`, `write` or `state`."""
    start: float
    end: float
    arguments: Mapping[str, Any]
    answer: Any = None
    error: Mapping[str, str] | None = None
    """`type` and `message` of the error that the client got instead of an answer."""

    @property
    def took_ms(self) -> float:
        """Time from the call to its answer or error."""
        return 1000 * (self.end - self.start)


CALL = tuple(Call.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Event:
    """The beginning or the repair of a fault, or another change of the world."""

    name: str
    phase: str
    """`fault`, `repair` or `note`."""
    at: float


@dataclass(frozen=True, slots=True)
class Sample:
    """The resident memory of a process at one time."""

    name: str
    pid: int
    at: float
    mb: float


@dataclass(slots=True)
class Record:
    """What was read from a file."""

    calls: list[Call] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class History:
    """Appends to one file. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def call(self, client: str, op: str, arguments: Mapping[str, Any], function: Callable[[], Any]) -> Call:
        """Run a function, and record its answer or its error, which is not raised."""
        start = time.monotonic()
        answer, error = None, None
        try:
            answer = function()
        except Exception as exc:  # whatever a client gets is judged later
            error = {"type": _public_name(exc), "message": str(exc)[:LONGEST_MESSAGE]}
        made = Call(client, op, start, time.monotonic(), arguments, answer, error)
        self._append({"call": {name: getattr(made, name) for name in CALL}})
        return made

    def event(self, name: str, phase: str) -> Event:
        """Record an event that happens now."""
        made = Event(name, phase, time.monotonic())
        self._append({"event": asdict(made)})
        return made

    def sample(self, name: str, pid: int, mb: float) -> None:
        """Record the memory that a process has now."""
        self._append({"sample": asdict(Sample(name, pid, time.monotonic(), round(mb, 2)))})

    def close(self) -> None:
        self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def _public_name(exc: Exception) -> str:
    """The class of an error; of the package's own errors, the nearest one that its users know."""
    known = (kind for kind in type(exc).__mro__ if kind.__module__ == errors.__name__)
    return next(known, type(exc)).__name__


def read(path: Path) -> Record:
    """All calls, events and samples; calls and events by the time at which they began."""
    record = Record()
    for line in _lines(path):
        if "call" in line:
            record.calls.append(Call(**line["call"]))
        elif "sample" in line:
            record.samples.append(Sample(**line["sample"]))
        else:
            record.events.append(Event(**line["event"]))
    record.calls.sort(key=lambda call: call.start)
    record.events.sort(key=lambda event: event.at)
    return record


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
