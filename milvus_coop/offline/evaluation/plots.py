"""Plots as SVG text. They take their colours from the page around them, so they suit light and dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from milvus_coop.offline.evaluation.records import DIRECTIONS, Direction, EvaluationReport, Quality
from milvus_coop.offline.evaluation.systems import LABELS

INK = "#010203"
LINES = "#010204"
SERIES = {"be": "#010205", "ce": "#010206", "sep-coop": "#010207", "joint-coop": "#010208"}
COLOURS = {
    INK: "currentColor",
    LINES: "var(--line)",
    **{stand_in: f"var(--{system})" for system, stand_in in SERIES.items()},
}
"""Placeholder colours that are replaced by those of the page. No plot uses them by chance."""
STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))
"""Line and marker of each bundle."""
DASHES = {"-": "", "--": "6 3", "-.": "6 3 1 3", ":": "1 3"}
SIZE = (5.0, 3.3)
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
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
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend. The page writes the legend, because it always has room for the names."""

    label: str
    colour: str
    """A CSS colour."""
    dashes: str
    """A value of `stroke-dasharray`. '' is a solid line."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure for the page."""

    title: str
    svg: str
    keys: tuple[Key, ...]


def plots(report: EvaluationReport) -> list[Plot]:
    """Every plot for which the report has data."""
    wanted: list[tuple[str, Callable[[Any], None]]] = []
    for direction in DIRECTIONS.values():
        if any(r.direction == direction for r in report.reach) and any(q.variant.k for q in report.quality):
            wanted.append((f"Recall against k, {direction}", partial(_recall, report=report, direction=direction)))
    for direction in DIRECTIONS.values():
        if any(c.direction == direction for c in report.cost):
            wanted.append((f"Quality against latency, {direction}", partial(_quality, report=report, direction=direction)))
    if len({c.pool for c in report.growth}) > 1:
        wanted.append(("Latency against pool size, image retrieval", partial(_growth, report=report)))
    return [_drawn(title, draw, number) for number, (title, draw) in enumerate(wanted)]


def _drawn(title: str, draw: Callable[[Any], None], number: int) -> Plot:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": f"milvus-coop-{number}"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        keys = [_key(handle, label) for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)]
    return Plot(title, _for_page(buffer.getvalue(), f"plot{number}-"), tuple(keys))


def _key(handle: Any, label: str) -> Key:
    line = handle[0] if isinstance(handle, tuple) else handle  # the handle of error bars is a tuple that starts with the line
    return Key(label, COLOURS[line.get_color()], DASHES[line.get_linestyle()])


def _for_page(svg: str, prefix: str) -> str:
    """The <svg> element alone, with unique ids and with the page's colours and fonts."""
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
    """Coop's R@1 by k, and the share of queries with a right answer among the candidates."""
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
    for variants in _by_system(report, language):
        first = variants[0].variant
        line, marker = _style(report, first.bundle)
        label, colour = _label(report, f"{LABELS[first.system]} R@1", first.bundle), SERIES[first.system]
        found = [q.figures[direction]["R@1"] for q in variants]
        if first.k is None:
            ax.axhline(100 * found[0].value, color=colour, linestyle=line, label=label)
            continue
        ks, values = [q.variant.k for q in variants], [100 * f.value for f in found]
        ax.plot(ks, values, color=colour, linestyle=line, marker=marker, label=label)
        ax.fill_between(ks, [100 * f.low for f in found], [100 * f.high for f in found], color=colour, alpha=0.15, lw=0)
    ks_shown = sorted({q.variant.k for q in report.quality if q.variant.k})
    ax.set(xlabel="k, candidates that the cross-encoder reranks", ylabel="percent of queries", xscale="log")
    ax.set_xticks(ks_shown, [str(k) for k in ks_shown])
    ax.minorticks_off()


def _quality(ax: Any, report: EvaluationReport, direction: Direction) -> None:
    """R@1 and median time of every system. The best place is at the top left."""
    language = next(iter(report.queries))
    times = {c.variant: c for c in report.cost if c.direction == direction}
    for variants in _by_system(report, language):
        some = [q for q in variants if q.variant in times]
        if not some:
            continue
        first = some[0].variant
        line, marker = _style(report, first.bundle)
        xs = [times[q.variant].total_ms.p50 for q in some]
        found = [q.figures[direction]["R@1"] for q in some]
        ys = [100 * f.value for f in found]
        errors = [[100 * (f.value - f.low) for f in found], [100 * (f.high - f.value) for f in found]]
        label, colour = _label(report, LABELS[first.system], first.bundle), SERIES[first.system]
        ax.errorbar(
            xs, ys, yerr=errors, color=colour, marker=marker, markersize=7, linestyle=line, elinewidth=0.8, capsize=2, label=label
        )
        for q, x, y in zip(some, xs, ys, strict=True):
            if q.variant.k:
                ax.annotate(f"{q.variant.k}", (x, y), textcoords="offset points", xytext=(5, 6), fontsize=9)
    ax.set(xlabel="median time of a query; numbers: k", ylabel="R@1, percent", xscale="log")
    _time_axis(ax.xaxis)


def _growth(ax: Any, report: EvaluationReport) -> None:
    """Median time of a query by pool size."""
    growth = report.growth
    for variant in dict.fromkeys(c.variant for c in growth):
        some = sorted((c for c in growth if c.variant == variant), key=lambda c: c.pool)
        line, marker = _style(report, variant.bundle)
        sizes, colour = [c.pool for c in some], SERIES[variant.system]
        label = _label(report, variant.label, variant.bundle) + (", partly estimated" if any(not c.queries for c in some) else "")
        ax.plot(sizes, [c.total_ms.p50 for c in some], color=colour, linestyle=line, marker=marker, label=label)
    sizes = sorted({c.pool for c in growth})
    ax.set(xlabel="images in the pool", ylabel="median time of a query", xscale="log", yscale="log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_locator(_no_ticks())
    _time_axis(ax.yaxis)


def _by_system(report: EvaluationReport, language: str) -> Iterator[list[Quality]]:
    """The rows of one language by bundle and system, in the order of the table."""
    groups: dict[tuple[str, str], list[Quality]] = {}
    for q in report.quality:
        if q.language == language:
            groups.setdefault((q.variant.bundle, q.variant.system), []).append(q)
    yield from groups.values()


def _style(report: EvaluationReport, bundle: str) -> tuple[str, str]:
    names = [facts.name for facts in report.bundles]
    return STYLES[names.index(bundle) % len(STYLES)]


def _label(report: EvaluationReport, text: str, bundle: str) -> str:
    return f"{text}, {bundle}" if len(report.bundles) > 1 else text


def _time_axis(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    from milvus_coop.offline.evaluation.tables import milliseconds

    low, high = axis.get_view_interval()
    narrow = high < 10 * low
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if narrow else (1.0, 3.0), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: milliseconds(value).replace(".0 ", " ")))
    axis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
