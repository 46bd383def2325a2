"""Results, reports and lists in a terminal, and as JSON lines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milvus_coop.cli.lines import json_line
from milvus_coop.printable import printable
from milvus_coop.types import CollectionInfo, Failure, Hit, IngestReport, SearchResult

if TYPE_CHECKING:
    from milvus_coop.models.scoring import Comparison
    from milvus_coop.offline.evaluation import EvaluationReport
    from milvus_coop.offline.evaluation.tables import TextTable
    from milvus_coop.store.token_store import SweepReport

PROBLEMS = 10
"""Maximum number of problems in the data of an evaluation that are listed."""
PIPE_WIDTH = 132
"""Width of the tables of an evaluation in a file or pipe."""
UNFOLDED = 10_000
"""Width of other output in a file or pipe, so that every path stays whole."""


def output(to_stderr: bool = False) -> Console:
    """Standard output or standard error. Lines are folded only in a terminal, or where the variable COLUMNS says their width."""
    console = Console(stderr=to_stderr)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(stderr=to_stderr, width=UNFOLDED)


def hit_lines(result: SearchResult) -> Iterator[str]:
    """One JSON object per hit."""
    for hit in result:
        yield json_line(asdict(hit))


def print_result(result: SearchResult, title: str) -> None:
    """Print the hits as a table, and below it the numbers of candidates and the times."""
    names = list(dict.fromkeys(name for hit in result for name in hit.fields))
    table = Table(title=shown(f"“{title}”"), title_justify="left", header_style="bold")
    for column in ("#", "match", "cosine", "BE rank → Coop rank"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("text" if any(hit.text for hit in result) else "uri", overflow="fold")
    for name in names:
        table.add_column(shown(name), overflow="fold")
    for hit in result:
        match = "-" if hit.ce_score is None else f"{hit.ce_score:.1%}"
        cells = (str(hit.rank), match, f"{hit.be_score:.3f}", _move(hit), shown(hit.text or short_path(hit.uri)))
        table.add_row(*cells, *(shown(str(hit.fields.get(name, ""))) for name in names))
    console = output()
    console.print(table if result.hits else shown(f"No hits for “{title}”."))
    t = result.timings
    candidates = "1 candidate" if result.candidates == 1 else f"{result.candidates} candidates"
    console.print(
        f"{candidates}, {result.reranked_count} reranked; encode {t.encode_ms:.1f} ms, "
        f"retrieve {t.retrieve_ms:.1f} ms, rerank {t.rerank_ms:.1f} ms, total {t.total_ms:.1f} ms",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    if any(hit.ce_score is not None and hit.score != hit.ce_score for hit in result):
        console.print("Ordered by the score sum, match logit + cosine; --score ce orders by match.", style="dim")
    if not result.reranked and result.candidates:
        console.print(
            shown(why_not_reranked(result)),
            style="yellow",
            soft_wrap=True,
        )


def why_not_reranked(result: SearchResult) -> str:
    """One sentence on the candidates that were not reranked, which `min_score` may have left out of the hits."""
    if any(hit.ce_score is None for hit in result):
        return f"Candidates that were not reranked are in the bi-encoder's order: {result.reason}."
    return f"Not every candidate was reranked: {result.reason}."


def print_scores(texts: Sequence[str], uris: Sequence[str], comparison: Comparison) -> None:
    """Print match probabilities and cosines, a row for each image and a column for each text. The best text of an image is bold."""
    table = Table(header_style="bold")
    table.add_column("image", overflow="fold")
    for text in texts:
        table.add_column(shown(text), justify="right", overflow="fold", min_width=len("100.0% (-0.000)"))
    for column, uri in enumerate(uris):
        best = int(comparison.score[:, column].argmax())
        cells = [
            f"{'[bold]' if row == best and len(texts) > 1 else '[default]'}{match:.1%}[/] [dim]({cosine:.3f})[/]"
            for row, (match, cosine) in enumerate(zip(comparison.score[:, column], comparison.similarity[:, column], strict=True))
        ]
        table.add_row(shown(short_path(uri)), *cells)
    console = output()
    console.print(table)
    console.print("match probability (cosine)", style="dim", highlight=False)


def print_failures(failures: Sequence[Failure], passed_over: Mapping[str, int], to_stderr: bool = False) -> None:
    """Print the number of items that could not be used, and each with its reason. Nothing if there are none.

    Images that were passed over, given by their suffix, are counted in another line.
    """
    console = output(to_stderr)
    print_passed_over(passed_over, console)
    if not failures:
        return
    console.print(f"{len(failures):,} failed", style="red", highlight=False)
    print_pairs("failed", ((short_path(f.uri), f.reason) for f in failures), console)


def report_facts(report: IngestReport) -> dict[str, object]:
    """The counts of an ingest, a load or an export, as the option `--json` prints them."""
    counts = {name: getattr(report, name) for name in ("added", "updated", "unchanged", "removed", "failed")}
    if report.skipped:
        counts |= {"skipped": report.skipped, "skipped_failed": report.skipped_failed}
    reasons = {"reasons": report.reasons} if report.failures else {}
    return {**counts, **reasons, "passed_over": report.passed_over, "seconds": round(report.seconds, 3)}


def print_report(report: IngestReport, collection: str) -> None:
    """Print the counts of an ingest in a line, and up to ten failures."""
    console = output()
    parts = [f"{report.added:,} added", f"{report.updated:,} updated", f"{report.unchanged:,} unchanged"]
    parts += [f"{report.removed:,} removed"] if report.removed else []
    rate = report.seen / report.seconds if report.seconds else 0.0
    parts += [f"{report.failed:,} failed in {report.seconds:.1f} s ({rate:,.0f} items/s)"]
    console.print(shown(collection, style="bold") + Text(f": {', '.join(parts)}"), soft_wrap=True)
    print_pairs("failed", ((short_path(f.uri), f.reason) for f in report.failures[:10]))
    if report.failed > 10:
        console.print(f"… and {report.failed - 10:,} more; --failed FILE lists them all", style="yellow")
        reasons = "; ".join(f"{n:,} {reason}" for reason, n in report.reasons.items())
        console.print(shown(f"by reason: {reasons}", style="yellow"), soft_wrap=True)
    if report.skipped:
        failed = f"; {report.skipped_failed:,} of them had failed (--retry-failed)" if report.skipped_failed else ""
        console.print(f"{report.skipped:,} not looked at: an earlier run finished them{failed}")
    print_passed_over(report.passed_over, console)


def print_passed_over(counts: Mapping[str, int], console: Console | None = None) -> None:
    """Print what was passed over: how many images of which suffixes and how to read them, and other parts of sources."""
    from milvus_coop.ingest.sources import how_to_read

    by_hint: dict[str, list[str]] = {}
    for suffix, n in counts.items():
        if not suffix.startswith("."):
            (console or output()).print(shown(f"{n:,} {suffix} passed over"), style="yellow", soft_wrap=True)
            continue
        by_hint.setdefault(how_to_read(suffix), []).append(f"{n:,} {suffix}")
    for hint, kinds in by_hint.items():
        line = f"{', '.join(kinds)} passed over: {hint or 'images of these kinds cannot be read'}"
        (console or output()).print(shown(line), style="yellow", soft_wrap=True)


def print_sweep(report: SweepReport, collection: str, dry_run: bool) -> None:
    """Print the counts of a sweep of token files in a line, and up to ten items whose file is missing or damaged."""
    console = output()
    parts = [f"{report.needed:,} token files needed", f"{report.swept:,} {'to remove' if dry_run else 'removed'}"]
    parts += [f"{report.young:,} too young to remove"] if report.young else []
    parts += [f"{len(report.missing):,} missing"]
    parts += [f"{len(report.damaged):,} damaged"] if report.damaged else []
    console.print(shown(collection, style="bold") + Text(f": {', '.join(parts)}"), soft_wrap=True)
    print_pairs("failed", ((short_path(f.uri), f.reason) for f in (*report.missing, *report.damaged)[:10]))


def print_evaluation(report: EvaluationReport) -> None:
    """Print the tables, then sentences about them, then the problems in the data."""
    from milvus_coop.offline.evaluation.tables import summary_lines, tables

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


def print_collections(infos: Sequence[CollectionInfo]) -> None:
    """Print collections as a table."""
    table = Table(header_style="bold")
    for column in ("collection", "kind", "items", "bundle", "index"):
        table.add_column(column, justify="right" if column == "items" else "left")
    for info in infos:
        table.add_row(*map(shown, (info.name, info.kind or "foreign", f"{info.count:,}", info.bundle or "-", info.index)))
    output().print(table if infos else "No collections.")


def print_pairs(style: str, pairs: Iterable[tuple[str, str]], console: Console | None = None) -> None:
    """Print pairs of a name and a value, a line each. The style `failed` marks them as problems."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="red" if style == "failed" else "bold", no_wrap=False, overflow="fold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(shown(name), shown(value))
    if table.row_count:
        (console or output()).print(table)


def shown(text: str, style: str = "") -> Text:
    """Text from elsewhere: its markup and its emoji codes are not interpreted, and it holds no control characters."""
    return Text(printable(text), style=style)


def short_path(uri: str) -> str:
    """A path below the current folder, relative to it. Everything else is returned unchanged."""
    prefix = os.getcwd().rstrip("/") + "/"  # noqa: PTH109 - compared with strings
    return uri.removeprefix(prefix)


def _move(hit: Hit) -> str:
    if hit.ce_score is None:
        return f"{hit.be_rank}"
    arrow = "[green]▲[/]" if hit.rank < hit.be_rank else "[red]▼[/]" if hit.rank > hit.be_rank else "="
    return f"{hit.be_rank} {arrow} {hit.rank}"


def _rich(table: TextTable) -> Table:
    made = Table(title=shown(table.title), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    made.padding = (0, 1, 0, 0)
    for i, name in enumerate(table.header):
        made.add_column(shown(name), justify="left" if i < table.names else "right", no_wrap=i < table.names)
    for row in table.rows:
        made.add_row(*map(shown, row))
    return made
