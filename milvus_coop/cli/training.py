"""How a training run looks in a terminal: its bar, and its summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from milvus_coop.training.bundling.export import Exported
from milvus_coop.training.run.trainer import Progress, RunReport


@contextmanager
def train_progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A bar on standard error with loss, pairs/s, dev score and time left; nothing if `quiet` or where there is no terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        tasks = {}
        dev = ""

        def show(progress: Progress) -> None:
            nonlocal dev
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, figures="")
            if progress.dev is not None:
                dev = f"dev {progress.dev:.1f}"
            figures = [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
            figures += [f"{progress.pairs_per_s:,.0f} pairs/s"] if progress.pairs_per_s else []
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total, figures="  ".join([*figures, dev]))

        yield show


def print_run(report: RunReport, *, as_json: bool) -> None:
    """What a run came to."""
    if as_json:
        fields = {name: getattr(report, name) for name in ("rounds", "stopped_early", "best", "dev", "problems")}
        click.echo(json.dumps({"run": str(report.folder), **fields, "seconds": round(report.seconds, 1)}))
        return
    end = " (stopped early)" if report.stopped_early else ""
    click.echo(
        f"{report.folder}: {report.rounds} rounds{end} in {report.seconds:.0f} s; best mean recall on dev {report.best:.1f} %"
    )
    for role, title in (("be", "bi-encoder"), ("coop", "Coop")):
        if f"{role}_mr" in report.dev:
            recalls = (
                f"{name} R@1/5/10 " + "/".join(f"{report.dev[f'{role}_{short}_r{k}']:.1f}" for k in (1, 5, 10))
                for name, short in (("text to image", "t2i"), ("image to text", "i2t"))
            )
            click.echo(f"  {title}, last evaluation: {'; '.join(recalls)}")
    if report.problems:
        click.echo(f"  {report.problems} items were left out: {report.folder / 'problems.jsonl'}")


def print_exported(exported: Exported, *, as_json: bool) -> None:
    """Where a bundle lies, and how far its graphs are from PyTorch."""
    spec = exported.bundle.spec
    differences = {name: float(f"{d.largest:.2g}") for name, d in exported.differences.items()}
    if as_json:
        click.echo(json.dumps({"bundle": str(exported.bundle.folder), "fingerprint": spec.fingerprint, "differences": differences}))
        return
    n_bytes = sum(file.n_bytes for file in spec.files.values())
    sizes = f"{n_bytes / 1e6:.1f} MB, {spec.tokens.n_bytes:,} bytes of tokens per image"
    click.echo(f"{exported.bundle.folder}: {spec.label}, {spec.kind}, {sizes}")
    click.echo("  largest difference from PyTorch: " + ", ".join(f"{name} {value:g}" for name, value in differences.items()))
    click.echo(f"  milvus-coop ingest photos/ --bundle {exported.bundle.folder}")
