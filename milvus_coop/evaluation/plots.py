"""Plots as SVG text that takes its colours from the page around it, so that it is right in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from milvus_coop.evaluation.records import DIRECTIONS, Contestant, Cost, Direction, EvaluationReport, Quality
from milvus_coop.evaluation.systems import LABELS

INK = "#010203"
LINES = "#010204"
SERIES = {"be": "#010205", "ce": "#010206", "sep-coop": "#010207", "joint-coop": "#010208"}
COLOURS = {
    INK: "currentColor",
    LINES: "var(--line)",
    **{stand_in: f"var(--{system})" for system, stand_in in SERIES.items()},
}
"""Colours that stand for those of the page; no plot has them by chance."""
STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))
"""Line and marker, by bundle."""
SIZE = (5.2, 3.5)
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": LINES,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINES,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure for the page."""

    title: str
    svg: str


def plots(report: EvaluationReport) -> list[Plot]:
    """Every plot there is something to show for."""
    made: list[Plot] = []
    for direction in DIRECTIONS.values():
        if any(r.direction == direction for r in report.reach) and any(q.contestant.k for q in report.quality):
            made.append(Plot(f"Recall against k, {direction}", _draw(len(made), lambda ax, d=direction: _recall(ax, report, d))))
    for direction in DIRECTIONS.values():
        if any(c.direction == direction for c in report.cost):
            made.append(
                Plot(f"Quality against latency, {direction}", _draw(len(made), lambda ax, d=direction: _quality(ax, report, d)))
            )
    if len({c.pool for c in report.growth}) > 1:
        made.append(
            Plot("Latency against pool size, image retrieval", _draw(len(made), lambda ax: _growth(ax, report.growth, report)))
        )
    return made


def _draw(number: int, draw: Any) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": f"milvus-coop-{number}"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _for_page(buffer.getvalue(), f"plot{number}-")


def _for_page(svg: str, prefix: str) -> str:
    """Only the <svg> element, with ids of its own and the page's colours and fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        r'<svg viewBox="\1" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
    )
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1; font-family: inherit", svg)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg


def _recall(ax: Any, report: EvaluationReport, direction: Direction) -> None:
    """Coop's R@1 by k, and what its candidates hold at all."""
    language = next(iter(report.queries))
    for reach in report.reach:
        if (reach.direction, reach.language) == (direction, language):
            line, _ = _style(report, reach.bundle)
            label = _label(report, "right answer among the k", reach.bundle)
            ax.plot(
                list(reach.recall),
                [100 * r for r in reach.recall.values()],
                color=INK,
                linestyle=":" if line == "-" else line,
                lw=1.2,
                label=label,
            )
    for contestants in _by_system(report, language):
        first = contestants[0].contestant
        line, marker = _style(report, first.bundle)
        label, colour = _label(report, f"{LABELS[first.system]} R@1", first.bundle), SERIES[first.system]
        found = [q.figures[direction]["R@1"] for q in contestants]
        if first.k is None:
            ax.axhline(100 * found[0].value, color=colour, linestyle=line, label=label)
            continue
        ks, values = [q.contestant.k for q in contestants], [100 * f.value for f in found]
        ax.plot(ks, values, color=colour, linestyle=line, marker=marker, label=label)
        ax.fill_between(ks, [100 * f.low for f in found], [100 * f.high for f in found], color=colour, alpha=0.15, lw=0)
    ks_shown = sorted({q.contestant.k for q in report.quality if q.contestant.k})
    ax.set(xlabel="k, candidates that the cross-encoder rescores", ylabel="percent of queries", xscale="log")
    ax.set_xticks(ks_shown, [str(k) for k in ks_shown])
    ax.minorticks_off()
    _legend(ax)


def _quality(ax: Any, report: EvaluationReport, direction: Direction) -> None:
    """R@1 and median time of every system: top left is best."""
    language = next(iter(report.queries))
    times = {c.contestant: c for c in report.cost if c.direction == direction}
    for contestants in _by_system(report, language):
        some = [q for q in contestants if q.contestant in times]
        if not some:
            continue
        first = some[0].contestant
        line, marker = _style(report, first.bundle)
        xs = [times[q.contestant].total_ms.p50 for q in some]
        found = [q.figures[direction]["R@1"] for q in some]
        ys = [100 * f.value for f in found]
        errors = [[100 * (f.value - f.low) for f in found], [100 * (f.high - f.value) for f in found]]
        label, colour = _label(report, LABELS[first.system], first.bundle), SERIES[first.system]
        ax.errorbar(
            xs, ys, yerr=errors, color=colour, marker=marker, markersize=7, linestyle=line, elinewidth=0.8, capsize=2, label=label
        )
        for q, x, y in zip(some, xs, ys, strict=True):
            if q.contestant.k:
                ax.annotate(f"{q.contestant.k}", (x, y), textcoords="offset points", xytext=(5, 6), fontsize=8)
    ax.set(xlabel="median time of a query; numbers: k", ylabel="R@1, percent", xscale="log")
    _time_axis(ax.xaxis)
    _legend(ax)


def _growth(ax: Any, growth: Sequence[Cost], report: EvaluationReport) -> None:
    """Median and 95th percentile by pool size."""
    for contestant in dict.fromkeys(c.contestant for c in growth):
        some = sorted((c for c in growth if c.contestant == contestant), key=lambda c: c.pool)
        line, marker = _style(report, contestant.bundle)
        sizes, colour = [c.pool for c in some], SERIES[contestant.system]
        label = _label(report, contestant.label, contestant.bundle) + (
            ", partly estimated" if any(not c.queries for c in some) else ""
        )
        ax.plot(sizes, [c.total_ms.p50 for c in some], color=colour, linestyle=line, marker=marker, label=label)
        ax.fill_between(sizes, [c.total_ms.p50 for c in some], [c.total_ms.p95 for c in some], color=colour, alpha=0.12, lw=0)
    sizes = sorted({c.pool for c in growth})
    ax.set(xlabel="images in the pool", ylabel="time of a query, median to p95", xscale="log", yscale="log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_locator(_no_ticks())
    _time_axis(ax.yaxis)
    _legend(ax)


def _by_system(report: EvaluationReport, language: str) -> Iterator[list[Quality]]:
    """The rows of one language by bundle and system, in the order of the table."""
    groups: dict[tuple[str, str], list[Quality]] = {}
    for q in report.quality:
        if q.language == language:
            groups.setdefault((q.contestant.bundle, q.contestant.system), []).append(q)
    yield from groups.values()


def _style(report: EvaluationReport, bundle: str) -> tuple[str, str]:
    names = [facts.name for facts in report.bundles]
    return STYLES[names.index(bundle) % len(STYLES)]


def _label(report: EvaluationReport, text: str, bundle: str) -> str:
    return f"{text}, {bundle}" if len(report.bundles) > 1 else text


def _legend(ax: Any) -> None:
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _time_axis(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    from milvus_coop.evaluation.tables import milliseconds

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: milliseconds(value).replace(".0 ", " ")))
    axis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


__all__ = ["Contestant", "Plot", "plots"]
