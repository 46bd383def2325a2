"""The progress bars of an ingest, a training and an evaluation, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from milvus_coop.cli.lines import say
from milvus_coop.ingest import Progress as IngestProgress
from milvus_coop.printable import printable

if TYPE_CHECKING:
    from milvus_coop.offline.evaluation import EvaluationProgress
    from milvus_coop.offline.training.run.pace import TrainingProgress

FIRST_LINE_S, LINE_EVERY_S = 15.0, 60.0


@contextmanager
def ingest_progress(quiet: bool, label: str = "ingest") -> Iterator[Callable[[IngestProgress], None] | None]:
    """A progress bar on standard error with counts, rate and time left. Nothing if `quiet` or without a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}", style="red"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None, rate="", failed="")

        def show(progress: IngestProgress) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(
                task,
                completed=progress.done,
                total=progress.total,
                rate=f"{speed:,.0f}/s" if speed else "",
                failed=f"{progress.failed} failed" if progress.failed else "",
            )

        yield show


@contextmanager
def row_progress(quiet: bool, label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error with the numbers of done rows and of all rows. Nothing if `quiet` or without a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def evaluation_progress(quiet: bool) -> Iterator[Callable[[EvaluationProgress], None]]:
    """A progress bar on standard error with the stage. Nothing if `quiet` or without a terminal."""
    from milvus_coop.offline.evaluation.progress import silent

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield silent
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("open", total=None)
        stage = ""

        def show(progress: EvaluationProgress) -> None:
            nonlocal stage
            if progress.stage != stage:
                stage = progress.stage
                bar.reset(task, description=printable(stage), total=progress.total)
            bar.update(task, completed=progress.done, total=progress.total)

        yield show


@contextmanager
def train_progress(quiet: bool) -> Iterator[Callable[[TrainingProgress], None] | None]:
    """Progress on standard error: a bar on a terminal, a line per minute elsewhere. Nothing if `quiet`."""
    console = Console(stderr=True)
    if quiet:
        yield None
        return
    if not console.is_terminal:
        yield Lines(lambda line: say(line, err=True), time.monotonic).report
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        tasks = {}
        dev: float | None = None

        def show(progress: TrainingProgress) -> None:
            nonlocal dev
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, figures="")
            dev = progress.dev if progress.dev is not None else dev
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total, figures=_figures(progress, dev))

        yield show


class Lines:
    """Progress without a terminal: the first line after a quarter of a minute, then one line per minute, in any stage.

    Args:
        write: called with each line.
        clock: a clock in seconds that never goes back.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._due = clock() + FIRST_LINE_S
        self._dev: float | None = None

    def report(self, progress: TrainingProgress) -> None:
        """Write a line if one is due."""
        self._dev = progress.dev if progress.dev is not None else self._dev
        now = self._clock()
        if now < self._due:
            return
        self._due = now + LINE_EVERY_S
        figures = _figures(progress, self._dev)
        self._write(f"{progress.stage}: {progress.done:,} of {progress.total:,}" + (f"  {figures}" if figures else ""))


def _figures(progress: TrainingProgress, dev: float | None) -> str:
    """The text of loss, pace, dev score and time left, as far as they are known."""
    rounds = progress.stage == "train"
    parts = [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    if progress.per_s is not None:
        parts.append(f"{progress.per_s:.2f} rounds/s" if rounds else f"{progress.per_s:,.0f} /s")
    parts += [f"{progress.pairs_per_s:,.0f} pairs/s"] if progress.pairs_per_s else []
    parts += [f"dev {dev:.1f}"] if dev is not None else []
    parts += [f"{_duration(progress.left_s)} left"] if progress.left_s is not None else []
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    """A time such as 45 s, 12 min or 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
