"""The progress of a run: how much is done, its pace, and the time left in the current stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a run."""

    stage: str
    """The stage. `dev images` and `train images`: a frozen backbone reads these images. `embedding`: items are embedded for mining
    or for the dev score. `reranking`: pairs are scored for the dev score. `train`: the rounds."""
    done: int
    total: int
    loss: float | None = None
    pairs_per_s: float | None = None
    """Pairs per second while the network learns, evaluations excluded."""
    dev: float | None = None
    per_s: float | None = None
    """Rounds, images or pairs per second since this process began the stage, evaluations and mining included."""
    left_s: float | None = None
    """Seconds until the end of the stage at this pace."""


class Pace:
    """Adds the pace and the time left to progress reports, and passes them on.

    Args:
        show: called with each report.
        clock: a clock in seconds that never goes back.
    """

    def __init__(self, show: Callable[[TrainingProgress], None], clock: Callable[[], float]) -> None:
        self._show, self._clock = show, clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def report(self, progress: TrainingProgress) -> None:
        """Pass a report on. The stage starts with its first report, and again with one that has less done than the one before."""
        now, stage, done = self._clock(), progress.stage, progress.done
        if stage not in self._begun or done < self._last[stage]:
            self._begun[stage] = (now, done)
        self._last[stage] = done
        start, first = self._begun[stage]
        if done > first and now > start:
            per_s = (done - first) / (now - start)
            progress = replace(progress, per_s=per_s, left_s=(progress.total - done) / per_s)
        self._show(progress)
