"""Whether latency and memory grow over a run: the p99 of its first and its last third, and the slope of each process's memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.campaign.history import Call, Sample

THIRD_CALLS = 500
"""Number of searches in a third below which its p99 says too little."""
WARM_UP_S = 30.0
"""Time after the start of a process or of the load whose memory is left out."""
MEMORY_REQUESTS = 10_000
"""Number of requests below which the noise of a slope is as large as the limit."""
CLIENTS = {"gateway": ("http", "upload"), "SDK process": ("sdk",)}
"""How the names of the clients begin whose calls reach a process."""


@dataclass(frozen=True, slots=True)
class Thirds:
    """The p99 of the searches in the first and the last third of a run."""

    first_ms: float
    last_ms: float
    calls: tuple[int, int]

    @property
    def ratio(self) -> float:
        return self.last_ms / self.first_ms

    @property
    def counts(self) -> bool:
        """True if both thirds have enough searches."""
        return min(self.calls) >= THIRD_CALLS


@dataclass(frozen=True, slots=True)
class Slope:
    """How the memory of a process grows."""

    mb_per_1000: float
    """MB per 1,000 requests."""
    requests: int
    """Number of requests between the first and the last sample of each run of the process, without the warm-up."""
    samples: int

    @property
    def counts(self) -> bool:
        """True if there were enough requests."""
        return self.requests >= MEMORY_REQUESTS


def thirds(searches: Sequence[Call], calm: Sequence[Call]) -> Thirds | None:
    """Compare the calm searches in the first and the last third of the time of all searches; None if one has no calm search."""
    if not searches:
        return None
    starts = [call.start for call in searches]
    begin, third_s = min(starts), (max(starts) - min(starts)) / 3
    first = [call.took_ms for call in calm if call.start < begin + third_s]
    last = [call.took_ms for call in calm if call.start >= begin + 2 * third_s]
    if not first or not last:
        return None
    return Thirds(float(np.percentile(first, 99)), float(np.percentile(last, 99)), (len(first), len(last)))


def slopes(samples: Sequence[Sample], calls: Sequence[Call]) -> Mapping[str, Slope]:
    """The slope of the memory of each process that was sampled.

    One line is fitted by least squares to all runs of a process; each run, between a start and a kill, has its own height.
    """
    found = {}
    for name in sorted({sample.name for sample in samples}):
        ends = sorted(call.end for call in calls if call.client.startswith(CLIENTS.get(name, ())))
        runs: dict[int, list[tuple[int, float]]] = {}
        since: dict[int, float] = {}
        for sample in (sample for sample in samples if sample.name == name):
            if sample.at - since.setdefault(sample.pid, sample.at) >= WARM_UP_S:
                runs.setdefault(sample.pid, []).append((bisect_right(ends, sample.at), sample.mb))
        if slope := _fit([np.array(run, np.float64) for run in runs.values() if len(run) > 1]):
            found[name] = slope
    return found


def _fit(runs: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]) -> Slope | None:
    """One slope through arrays of (requests, MB), each of which may have its own height."""
    if not runs:
        return None
    x, y = np.concatenate([run - run.mean(axis=0) for run in runs]).T
    if not x.any():
        return None
    requests = sum(int(after - before) for run in runs for (before, after) in pairwise(run[:, 0]))
    return Slope(1000 * float(x @ y) / float(x @ x), requests, len(x))
