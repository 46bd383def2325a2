"""The output of a training run in a terminal: a progress bar, and a summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from milvus_coop.cli.lines import say, say_json
from milvus_coop.offline.training.bundling.export import Exported
from milvus_coop.offline.training.run.pace import Progress
from milvus_coop.offline.training.run.trainer import RunReport

FIRST_LINE_S, LINE_EVERY_S = 15.0, 60.0


@contextmanager
def train_progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Progress on standard error: a bar on a terminal, a line per minute elsewhere. Nothing if `quiet`."""
    console = Console(stderr=True)
    if quiet:
        yield None
        return
    if not console.is_terminal:
        yield Lines(lambda line: say(line, err=True), time.monotonic).tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
    with Bar(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        tasks = {}
        dev: float | None = None

        def show(progress: Progress) -> None:
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

    def tell(self, progress: Progress) -> None:
        """Write a line if one is due."""
        self._dev = progress.dev if progress.dev is not None else self._dev
        now = self._clock()
        if now < self._due:
            return
        self._due = now + LINE_EVERY_S
        figures = _figures(progress, self._dev)
        self._write(f"{progress.stage}: {progress.done:,} of {progress.total:,}" + (f"  {figures}" if figures else ""))


def _figures(progress: Progress, dev: float | None) -> str:
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


def print_run(report: RunReport, *, as_json: bool) -> None:
    """Print the summary of a run."""
    if as_json:
        fields = {name: getattr(report, name) for name in ("rounds", "stopped_early", "best", "dev", "problems")}
        say_json({"run": str(report.folder), **fields, "seconds": round(report.seconds, 1)})
        return
    end = " (stopped early)" if report.stopped_early else ""
    say(f"{report.folder}: {report.rounds} rounds{end} in {report.seconds:.0f} s; best mean recall on dev {report.best:.1f} %")
    for role, title in (("be", "bi-encoder"), ("coop", "Coop")):
        if f"{role}_mr" in report.dev:
            recalls = (
                f"{name} R@1/5/10 " + "/".join(f"{report.dev[f'{role}_{short}_r{k}']:.1f}" for k in (1, 5, 10))
                for name, short in (("text to image", "t2i"), ("image to text", "i2t"))
            )
            gain = f"; mean recall {report.dev['gain_mr']:+.1f} by reranking" if role == "coop" and "gain_mr" in report.dev else ""
            say(f"  {title}, last evaluation: {'; '.join(recalls)}{gain}")
    if report.problems:
        say(f"  {report.problems} items were left out: {report.folder / 'problems.jsonl'}")


def print_exported(exported: Exported, *, as_json: bool) -> None:
    """Print the bundle's folder, and the differences of its graphs from PyTorch."""
    spec = exported.bundle.spec
    differences = {name: float(f"{d.largest:.2g}") for name, d in exported.differences.items()}
    if as_json:
        say_json({"bundle": str(exported.bundle.folder), "fingerprint": spec.fingerprint, "differences": differences})
        return
    n_bytes = sum(file.n_bytes for file in spec.files.values())
    sizes = f"{n_bytes / 1e6:.1f} MB, {spec.tokens.n_bytes:,} bytes of tokens per image"
    say(f"{exported.bundle.folder}: {spec.label}, {spec.kind}, {sizes}")
    say("  largest difference from PyTorch: " + ", ".join(f"{name} {value:g}" for name, value in differences.items()))
    say(f"  milvus-coop ingest photos/ --bundle {exported.bundle.folder}")
