"""How far a run is, how fast it goes, and how long the stage that it is in will still take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    stage: str
    """`dev images`, `train images`: a frozen backbone reads them. `embedding`: for mining or for the dev score. `reranking`: for
    the dev score. `train`: the rounds."""
    done: int
    total: int
    loss: float | None = None
    pairs_per_s: float | None = None
    """While the network learns: without evaluations."""
    dev: float | None = None
    per_s: float | None = None
    """Rounds, images or pairs per second since this process began the stage, evaluations and mining included."""
    left_s: float | None = None
    """Seconds until the stage is over, if it goes on at this pace."""


class Pace:
    """Adds pace and time left to what is told, and passes it on.

    Args:
        show: who is told.
        clock: seconds that only grow.
    """

    def __init__(self, show: Callable[[Progress], None], clock: Callable[[], float]) -> None:
        self._show, self._clock = show, clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def tell(self, progress: Progress) -> None:
        """Pass it on. The first of a stage, or one with less done than before it, begins the stage anew."""
        now, stage, done = self._clock(), progress.stage, progress.done
        if stage not in self._begun or done < self._last[stage]:
            self._begun[stage] = (now, done)
        self._last[stage] = done
        start, first = self._begun[stage]
        if done > first and now > start:
            per_s = (done - first) / (now - start)
            progress = replace(progress, per_s=per_s, left_s=(progress.total - done) / per_s)
        self._show(progress)
