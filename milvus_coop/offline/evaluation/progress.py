"""How far an evaluation is, for whoever shows a bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a stage."""

    stage: str
    """`ingest images, coop-small`, for example."""
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Shows nothing."""
