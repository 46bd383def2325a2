"""The progress of an evaluation, for code that shows a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """The progress of one stage."""

    stage: str
    """Name of the stage, such as `ingest images, coop-small`."""
    done: int
    total: int


OnProgress = Callable[[EvaluationProgress], None]


def silent(progress: EvaluationProgress) -> None:
    """Show nothing."""
