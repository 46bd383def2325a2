"""The output of an evaluation in a terminal: a progress bar, and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from milvus_coop.cli.tables import print_pairs, shown
from milvus_coop.offline.evaluation import EvaluationReport, Progress
from milvus_coop.offline.evaluation.progress import silent
from milvus_coop.offline.evaluation.tables import TextTable, summary_lines, tables
from milvus_coop.printable import printable

PROBLEMS = 10
"""Maximum number of problems that are listed."""
PIPE_WIDTH = 132


@contextmanager
def evaluation_progress(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on standard error with the stage. Nothing if `quiet` or without a terminal."""
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
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("open", total=None)
        stage = ""

        def show(progress: Progress) -> None:
            nonlocal stage
            if progress.stage != stage:
                stage = progress.stage
                bar.reset(task, description=printable(stage), total=progress.total)
            bar.update(task, completed=progress.done, total=progress.total)

        yield show


def print_evaluation(report: EvaluationReport) -> None:
    """Print the tables, then sentences about them, then the problems in the data."""
    console = Console()
    if not console.is_terminal:  # the output is a file, which has no maximum width
        console = Console(width=PIPE_WIDTH)
    for table in tables(report):
        console.print(_rich(table))
        console.print(shown(table.note), style="dim", soft_wrap=True)
        console.print()
    head = f"{report.data}, split {report.split}, protocol {report.protocol}: {report.seconds:.0f} s"
    console.print(shown(head), style="bold", soft_wrap=True)
    for line in summary_lines(report):
        console.print(shown(line), soft_wrap=True)
    if report.problems:
        console.print(f"{len(report.problems):,} problems in the data, left out:", style="yellow", highlight=False)
        print_pairs("failed", ((p.place, p.reason) for p in report.problems[:PROBLEMS]))
        if len(report.problems) > PROBLEMS:
            console.print(f"… and {len(report.problems) - PROBLEMS:,} more; --out DIR lists them all", style="yellow")


def _rich(table: TextTable) -> Table:
    made = Table(title=shown(table.title), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    made.padding = (0, 1, 0, 0)
    for i, name in enumerate(table.header):
        made.add_column(shown(name), justify="left" if i < table.names else "right", no_wrap=i < table.names)
    for row in table.rows:
        made.add_row(*map(shown, row))
    return made
