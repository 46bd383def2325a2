"""The progress bar of an ingest, and of other work on items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from milvus_coop.ingest import Progress as IngestProgress


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
