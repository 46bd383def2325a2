"""The results of `growth.py`: records, their JSON form, and the plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COOP = "Coop 50"
"""The contestant that represents Coop in the plot."""
GREY = "#7d838c"
INK = "#30343a"
TICKS = {0.001: "1 ms", 0.01: "10 ms", 0.1: "100 ms", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36000: "10 h"}
LABEL_LINE = 0.048
"""Height of a line of a label, as a share of the plot's height."""

Percentiles = tuple[float, float]
"""p50 and p99 in milliseconds."""


@dataclass(frozen=True, slots=True)
class QueryTime:
    """The time of one query in seconds."""

    seconds: float
    measured: bool
    """False if the time is extrapolated from the rate of pairs."""

    def __str__(self) -> str:
        text = f"{1000 * self.seconds:,.0f} ms" if self.seconds < 1 else duration(self.seconds)
        return text if self.measured else f"~{text}"


@dataclass(frozen=True, slots=True)
class PoolTimes:
    """The measurements on one pool."""

    store: str
    """`server` or `lite`."""
    items: int
    latency: Mapping[str, Mapping[str, Percentiles]]
    """Times by contestant and stage."""
    recall: Mapping[str, float]
    """Mean recall over the queries, by `@10`, `@50`, `@200`, and by `@50, 1 %` within the filter."""
    exhaustive: QueryTime
    from_images: QueryTime


def duration(seconds: float) -> str:
    for unit_s, name in ((3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {name}"
    return f"{seconds:.1f} s"


def draw(pools: Sequence[PoolTimes], path: Path) -> None:
    """Plot the time per query against the size of the pool, both logarithmic. Hollow points are extrapolated."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "growth", "font.size": 10.5, "axes.edgecolor": GREY, "text.color": INK})
    drawn = sorted((pool for pool in pools if pool.store == pools[0].store), key=lambda pool: pool.items)
    sizes = [pool.items for pool in drawn]
    figure = Figure(figsize=(8.6, 4.9), layout="constrained")
    axes = figure.add_subplot()
    contestants = {
        "every image through the\nimage and the cross-encoder": ("#6d727b", [pool.from_images for pool in drawn]),
        "cross-encoder on every item,\ntokens in memory": ("#7a5aa6", [pool.exhaustive for pool in drawn]),
        COOP.replace(" ", ", k = "): ("#c8442d", band(axes, drawn, COOP, "#c8442d")),
        "bi-encoder alone": ("#2a7f9e", band(axes, drawn, "BE", "#2a7f9e")),
    }
    for colour, costs in contestants.values():
        line(axes, sizes, costs, colour)
    set_axes(axes, sizes)
    label_ends(axes, sizes[-1], {name: (costs[-1], colour) for name, (colour, costs) in contestants.items()})
    axes.set_title("Time for one query, by number of items in the collection", loc="left", fontsize=12, fontweight="bold", pad=24)
    notes = "median, shaded up to p99; filled: measured, hollow: extrapolated from the same run"
    axes.text(0, 1.03, notes, transform=axes.transAxes, fontsize=9, color=GREY)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def band(axes: Axes, pools: Sequence[PoolTimes], name: str, colour: str) -> list[QueryTime]:
    """Shade from p50 to p99 of a contestant, and return its medians."""
    p50, p95 = ([pool.latency[name]["total"][i] / 1000 for pool in pools] for i in (0, 1))
    axes.fill_between([pool.items for pool in pools], p50, p95, color=colour, alpha=0.12, linewidth=0)
    return [QueryTime(seconds, measured=True) for seconds in p50]


def line(axes: Axes, sizes: Sequence[int], costs: Sequence[QueryTime], colour: str) -> None:
    """Draw a line: solid between measured points, dashed to extrapolated ones."""
    for i in range(len(sizes) - 1):
        style = "-" if costs[i + 1].measured else (0, (4, 3))
        axes.plot(sizes[i : i + 2], [c.seconds for c in costs[i : i + 2]], color=colour, linewidth=2, linestyle=style)
    for size, cost in zip(sizes, costs, strict=True):
        face = colour if cost.measured else "white"
        axes.plot([size], [cost.seconds], "o", markersize=7, markeredgewidth=1.8, color=colour, markerfacecolor=face, zorder=3)


def label_ends(axes: Axes, x: int, ends: Mapping[str, tuple[QueryTime, str]]) -> None:
    """Label each line at its end with its name and last value, from top to bottom. Labels that would touch are moved apart."""
    bottom, top = axes.get_ylim()
    lowest = np.inf
    for text, (cost, colour) in ends.items():
        gap = (top / bottom) ** (LABEL_LINE * (text.count("\n") + 2))
        y = min(cost.seconds, lowest / gap)
        axes.annotate(
            f"{text}\n{cost}", (x, y), (14, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
        )
        lowest = y


def set_axes(axes: Axes, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom / 3, top * 1.2)
    axes.set_xlim(sizes[0] * 0.8, sizes[-1] * 1.12)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_locator(FixedLocator([y for y in TICKS if y >= bottom / 3]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: TICKS.get(y, "")))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(color=GREY, labelcolor=INK)


def read(text: str) -> list[PoolTimes]:
    """Read the pools from the text that `--json` printed."""
    return [
        PoolTimes(**{**row, "exhaustive": QueryTime(**row["exhaustive"]), "from_images": QueryTime(**row["from_images"])})
        for row in json.loads(text)["pools"]
    ]
