"""The counts of an ingest, which turn into its progress and its report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from milvus_coop.ingest.sink import STAGES, Progress, Stage, StageTime
from milvus_coop.types import Failure


class HopelessError(Exception):
    """More items failed than `IngestOptions.max_failures`, which is its argument."""


@dataclass
class Counts:
    """The counts of an ingest so far."""

    seen: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    failures: list[Failure] = field(default_factory=list)
    broken: bool = False
    """True if a part of the sources could not be read."""
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds that were spent in each stage, summed over threads and workers."""
    available_s: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds that the threads of each stage had for it."""
    started: float = field(default_factory=time.monotonic)
    """The start of this part, by the clock of its own machine."""

    @property
    def done(self) -> int:
        """Number of items that are finished."""
        return self.added + self.updated + self.unchanged + len(self.failures)

    def add(self, other: Counts) -> None:
        """Add the counts of another part of the same ingest."""
        self.seen += other.seen
        self.added += other.added
        self.updated += other.updated
        self.unchanged += other.unchanged
        self.failures += other.failures
        self.broken |= other.broken
        for stage in STAGES:
            self.seconds[stage] += other.seconds[stage]
            self.available_s[stage] += other.available_s[stage]

    def check(self, allowed: int | None) -> None:
        """Raise `HopelessError` if more items failed than allowed."""
        if allowed is not None and len(self.failures) > allowed:
            raise HopelessError(allowed)

    def progress(self, total: int | None) -> Progress:
        """The counts as a progress, with the number of items in all sources."""
        return Progress(
            seen=self.seen,
            done=self.done,
            added=self.added,
            updated=self.updated,
            unchanged=self.unchanged,
            failed=len(self.failures),
            total=total,
            seconds=time.monotonic() - self.started,
            stages={stage: StageTime(self.seconds[stage], self.available_s[stage]) for stage in STAGES},
        )
