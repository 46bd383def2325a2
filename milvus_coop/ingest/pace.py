"""The pace of an ingest: its rate, the time left, and the stage that limits it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from milvus_coop.ingest.sink import Progress, Stage

WINDOW_S = 30.0
STEP_S = 1.0
"""Minimum time between two `Progress` objects that are kept for the window."""


@dataclass(frozen=True, slots=True)
class IngestPace:
    """The pace of an ingest. All but `overall_per_s` is about the last half minute."""

    items_per_s: float
    overall_per_s: float
    """Items per second since the start."""
    eta_s: float | None
    """Seconds until the end at this rate; None if the number of items is unknown or nothing was finished."""
    busy: Mapping[Stage, float]
    """The part of their time, from 0 to 1, that the threads of each stage worked."""

    @property
    def limit(self) -> Stage | None:
        """The busiest stage, which is the one that limits the rate."""
        return max(self.busy, key=lambda stage: self.busy[stage], default=None)


class PaceMeter:
    """Measures the pace of one ingest. It has no clock of its own: each `Progress` says when it was."""

    def __init__(self) -> None:
        self._past = deque([Progress(0, 0, 0, 0, 0, 0, None)])

    def pace(self, progress: Progress) -> IngestPace:
        """The pace at this progress. Calls come in the order of time."""
        while len(self._past) > 1 and self._past[1].seconds <= progress.seconds - WINDOW_S:
            self._past.popleft()
        first = self._past[0]
        if progress.seconds - self._past[-1].seconds >= STEP_S:
            self._past.append(progress)
        rate = _ratio(progress.done - first.done, progress.seconds - first.seconds)
        left = None if progress.total is None else max(0, progress.total - progress.done)
        return IngestPace(
            items_per_s=rate,
            overall_per_s=_ratio(progress.done, progress.seconds),
            eta_s=None if left is None or not rate else left / rate,
            busy={stage: _busy(stage, first, progress) for stage in progress.stages},
        )


def _busy(stage: Stage, first: Progress, last: Progress) -> float:
    """The part of its time that a stage worked between two progresses."""
    seconds, available_s = last.stages[stage].seconds, last.stages[stage].available_s
    if before := first.stages.get(stage):
        seconds, available_s = seconds - before.seconds, available_s - before.available_s
    return min(1.0, _ratio(seconds, available_s))  # a call counts when it ends, and so may be longer than the window


def _ratio(number: float, of: float) -> float:
    return number / of if of > 0 else 0.0
