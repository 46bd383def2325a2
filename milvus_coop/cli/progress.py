"""The progress bars of an ingest, a training and an evaluation, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from milvus_coop.cli.lines import say, say_json
from milvus_coop.ingest import PaceMeter
from milvus_coop.ingest import Progress as IngestProgress
from milvus_coop.printable import printable

if TYPE_CHECKING:
    from milvus_coop.offline.evaluation import EvaluationProgress
    from milvus_coop.offline.training.run.pace import TrainingProgress

FIRST_LINE_S, LINE_EVERY_S = 15.0, 60.0


@contextmanager
def ingest_outputs(
    quiet: bool, json_every_s: float | None = None, metrics: tuple[str, int] | None = None
) -> Iterator[Callable[[IngestProgress], None] | None]:
    """All outputs of an ingest's progress.

    Args:
        quiet: no progress bar.
        json_every_s: write a line of JSON to standard error at this interval and at the end, instead of a bar.
        metrics: host and port on which to serve metrics for Prometheus.
    """
    shows: list[Callable[[IngestProgress], None]] = []
    with ExitStack() as stack:
        if metrics is not None:
            from milvus_coop.ingest.metrics import serve_metrics

            host, port = metrics
            served = stack.enter_context(serve_metrics(port, host))
            say(f"metrics of this ingest: {served.url}", err=True)
            shows.append(served.show)
        if json_every_s is not None:
            lines = ProgressLines(lambda value: say_json(value, err=True), json_every_s)
            stack.callback(lines.end)
            shows.append(lines.show)
        elif bar := stack.enter_context(ingest_progress(quiet)):
            shows.append(bar)

        def show(progress: IngestProgress) -> None:
            for each in shows:
                each(progress)

        yield show if shows else None


class ProgressLines:
    """The progress of an ingest as JSON objects, at an interval and at the end.

    Args:
        write: called with each object.
        every_s: the interval in seconds. Nothing is written while no progress is reported.
    """

    def __init__(self, write: Callable[[dict[str, object]], None], every_s: float) -> None:
        self._write, self._every_s, self._due_s = write, every_s, every_s
        self._meter = PaceMeter()
        self._unwritten: dict[str, object] | None = None

    def show(self, progress: IngestProgress) -> None:
        """Write an object if one is due."""
        self._unwritten = self._object(progress)
        if progress.seconds >= self._due_s:
            self.end()
            self._due_s = progress.seconds + self._every_s

    def end(self) -> None:
        """Write the latest progress, unless it is written."""
        if self._unwritten is not None:
            self._write(self._unwritten)
        self._unwritten = None

    def _object(self, progress: IngestProgress) -> dict[str, object]:
        pace = self._meter.pace(progress)
        counts = ("seen", "done", "added", "updated", "unchanged", "failed", "total")
        return {
            **{name: getattr(progress, name) for name in counts},
            "seconds": round(progress.seconds, 1),
            "items_per_s": round(pace.items_per_s, 2),
            "overall_per_s": round(pace.overall_per_s, 2),
            "eta_s": None if pace.eta_s is None else round(pace.eta_s, 1),
            "stages": {
                stage: {"seconds": round(spent.seconds, 2), "busy": round(pace.busy[stage], 2)}
                for stage, spent in progress.stages.items()
            },
        }


@contextmanager
def ingest_progress(quiet: bool, label: str = "ingest") -> Iterator[Callable[[IngestProgress], None] | None]:
    """A progress bar on standard error with counts, rate, the busiest stage and the time left.

    Nothing if `quiet` or without a terminal.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn(label),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[limit]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[failed]}", style="red"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None, rate="", limit="", left="", failed="")
        meter = PaceMeter()

        def show(progress: IngestProgress) -> None:
            pace = meter.pace(progress)
            bar.update(
                task,
                completed=progress.done,
                total=progress.total,
                rate=f"{pace.items_per_s:,.{0 if pace.items_per_s >= 10 else 1}f}/s" if pace.items_per_s else "",
                limit=f"{pace.limit} {pace.busy[pace.limit]:.0%}" if pace.limit else "",
                left="" if pace.eta_s is None else f"{_duration(pace.eta_s)} left",
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
