"""The page report.html: one file that works offline, in light and dark mode, and on a phone. Every text from outside is escaped."""

from __future__ import annotations

from html import escape
from pathlib import PurePath

from milvus_coop.offline.evaluation.page_gallery import gallery_html, thumbnail_style
from milvus_coop.offline.evaluation.page_style import STYLE
from milvus_coop.offline.evaluation.plots import Plot, plots
from milvus_coop.offline.evaluation.records import DIRECTIONS, Direction, EvaluationReport, Quality
from milvus_coop.offline.evaluation.tables import TextTable, milliseconds, percent, points, summary_lines, tables

GUARD = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy: the page loads nothing and runs no script, whatever a caption contains."""

METHOD = (
    "Items were ingested into Milvus and searched there. Coop reranks only what Milvus returned; candidates beyond k stay below in "
    "the order of the bi-encoder, and nothing that was missed is added. R@k: any right answer among the first k."
)


def render(report: EvaluationReport) -> str:
    """The HTML text of the page."""
    title = f"Evaluation on {PurePath(report.data).name or report.data}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subtitle(report))}</p>',
        _tiles(report),
        _summary(report),
        *[_table(table) for table in tables(report)[:1]],
        _plots(report),
        *[_table(table) for table in tables(report)[1:]],
        gallery_html(report),
        _facts(report),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{GUARD}">'
        f"<title>{escape(title)}</title><style>{STYLE}{thumbnail_style(report.thumbnails)}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(filter(None, body)) + "\n</body></html>\n"


def _subtitle(report: EvaluationReport) -> str:
    bundles = ", ".join(f"{b.label} ({b.kind})" for b in report.bundles)
    when = report.created[:16].replace("T", " ")
    return f"{report.data}, split {report.split}, protocol {report.protocol} · {bundles} · {report.store} · {when} UTC"


def _tiles(report: EvaluationReport) -> str:
    """The tiles at the top: the CE's gain in R@1 per direction, and its cost, a sentence each."""
    tiles = []
    for q in report.quality:
        if q.variant.k == report.headline_k and q.gain:
            tiles += [_gain_tile(report, q, direction) for direction in DIRECTIONS.values()]
    for c in report.cost:
        if c.variant.k == report.headline_k and c.direction == "image retrieval":
            text = f"{c.variant.label}: median of a text query among {c.pool:,} images"
            text += f", of which the cross-encoder takes {milliseconds(c.ce_ms.p50)}"
            tiles.append(_tile(milliseconds(c.total_ms.p50), text, report, c.variant.bundle))
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _gain_tile(report: EvaluationReport, q: Quality, direction: Direction) -> str:
    gain = q.gain[f"R@1, {direction}"]
    after = q.figures[direction]["R@1"].value
    verdict = "more" if gain.low > 0 else "less" if gain.high < 0 else "too close to tell"
    language = f", {q.language}" if len(report.queries) > 1 else ""
    text = f"{q.variant.label}: R@1 of {direction}{language}; BE {percent(after - gain.value)}, "
    text += f"difference {points(gain)}: {verdict}"
    return _tile(f"{percent(after)} %", text, report, q.variant.bundle)


def _tile(figure: str, text: str, report: EvaluationReport, bundle: str) -> str:
    whose = f"{bundle}. " if len(report.bundles) > 1 else ""
    return f'<div class="tile"><b>{escape(figure)}</b><span class="soft">{escape(whose + text)}</span></div>'


def _summary(report: EvaluationReport) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in summary_lines(report)) + "</ul>"


def _table(table: TextTable) -> str:
    head = "".join(f'<th class="{_column(table, i)}">{escape(name)}</th>' for i, name in enumerate(table.header))
    rows = "".join(
        "<tr>" + "".join(f'<td class="{_column(table, i)}">{escape(cell)}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<h2>{escape(table.title)}</h2><div class="scroll">{grid}</div><p class="soft">{escape(table.note)}</p>'


def _column(table: TextTable, i: int) -> str:
    return "name" if i < table.names else "number"


def _plots(report: EvaluationReport) -> str:
    figures = "".join(_figure(plot) for plot in plots(report))
    language = f" Language: {next(iter(report.queries))}." if len(report.queries) > 1 else ""
    note = f'<p class="soft">Bands and bars: 95 % intervals.{escape(language)}</p>'
    return f'<h2>Plots</h2><div class="plots">{figures}</div>{note}' if figures else ""


def _figure(plot: Plot) -> str:
    line = '<svg viewBox="0 0 28 8"><line x1="0" y1="4" x2="28" y2="4" stroke="{}" stroke-dasharray="{}"/></svg>'
    keys = "".join(f"<li>{line.format(key.colour, key.dashes)}{escape(key.label)}</li>" for key in plot.keys)
    return f'<figure><h3>{escape(plot.title)}</h3>{plot.svg}<ul class="keys">{keys}</ul></figure>'


def _facts(report: EvaluationReport) -> str:
    lines = [
        f"{b.label}: {b.kind}, fingerprint {b.fingerprint}; {b.pairs_per_s:,.0f} pairs/s in full batches" for b in report.bundles
    ]
    lines.append(f"{report.machine}; {report.seconds:,.0f} s in all; seed {report.seed}")
    facts = "<h2>How it was measured</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
    facts += f"<p>{escape(METHOD)}</p>"
    if report.problems:
        places = "".join(f"<li>{escape(p.place)}: {escape(p.reason)}</li>" for p in report.problems)
        facts += f"<details><summary>{len(report.problems):,} problems in the data, left out</summary><ul>{places}</ul></details>"
    return facts
