"""The report as rows of text, which terminals, pages and benchmarks print in their own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milvus_coop.offline.evaluation.bootstrap import Interval
from milvus_coop.offline.evaluation.metrics import RECALLS
from milvus_coop.offline.evaluation.records import DIRECTIONS, Cost, Direction, EvaluationReport, Quality, Skipped, TextSide

NONE = "-"

_TEXT_SIDE: Mapping[TextSide, str] = {
    "stored": "What the cross-encoder reads of a text is stored with it; CE, every pair: it is in memory, not fetched from Milvus.",
    "encoded": "The text side of every candidate is encoded at query time.",
    "tokenised": "Every candidate is tokenised at query time.",
}


@dataclass(frozen=True, slots=True)
class TextTable:
    """A title, a header and rows of text. The first `names` columns are names, the others are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    note: str = ""


def tables(report: EvaluationReport) -> list[TextTable]:
    """All tables of a report that have rows."""
    made = [
        quality_table(report),
        *_both_directions(report),
        kind_table(report),
        *cost_tables(report),
        growth_table(report),
        storage_table(report),
    ]
    return [table for table in made if table.rows]


def percent(value: float) -> str:
    """A share as a percentage, such as `38.1`."""
    return f"{100 * value:.1f}"


def points(gain: Interval | None) -> str:
    """A gain in percentage points with its interval, such as `+1.3 [-0.5, +3.0]`."""
    return NONE if gain is None else f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def milliseconds(value: float) -> str:
    """A time with about three digits, such as `12 ms`, `2.1 s` or `40 min`."""
    if value >= 7_200_000:
        return f"{value / 3_600_000:,.1f} h"
    if value >= 120_000:
        return f"{value / 60_000:,.0f} min"
    if value >= 10_000:
        return f"{value / 1000:,.0f} s"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def quality_table(report: EvaluationReport) -> TextTable:
    """The recalls of both directions, the mean recall, and the gain over the bi-encoder."""
    header = ["system", *(f"{short} R@{k}" for short in ("IR", "TR") for k in RECALLS), "mR", "mR - BE"]
    rows = []
    for q in report.quality:
        recalls = [percent(q.figures[d][f"R@{k}"].value) for d in DIRECTIONS.values() for k in RECALLS]
        rows.append([*_names(report, q), *recalls, percent(q.mean_recall.value), points(q.gain.get("mR"))])
    note = (
        "Percent; IR: image retrieval (text to image), TR: text retrieval. Behind the gain its 95 % interval "
        f"({report.resamples:,} paired bootstrap resamples of the images, each with its texts)."
    )
    return TextTable("Quality", [*_name_header(report), *header[1:]], rows, len(_name_header(report)), note)


def _both_directions(report: EvaluationReport) -> list[TextTable]:
    """Ranking figures with their intervals, one table per direction."""
    made = []
    for direction in DIRECTIONS.values():
        rows = []
        for q in report.quality:
            cells = [_with_interval(q.figures[direction][m]) for m in ("R@1", "R@10", "MRR@10", "nDCG@10")]
            rows.append([*_names(report, q), *cells, points(q.gain.get(f"R@1, {direction}"))])
        header = [*_name_header(report), "R@1", "R@10", "MRR@10", "nDCG@10", "R@1 - BE"]
        made.append(TextTable(direction.capitalize(), header, rows, len(_name_header(report)), "Percent, with 95 % intervals."))
    return made


def kind_table(report: EvaluationReport) -> TextTable:
    """R@1 of image retrieval by kind of caption."""
    kinds = list(dict.fromkeys(kind for q in report.quality for kind in q.kinds))
    if not kinds:
        return TextTable("", [], [])
    counts = {kind: max(q.kinds[kind].queries for q in report.quality if kind in q.kinds) for kind in kinds}
    rows = [
        [*_names(report, q), *(percent(q.kinds[k].figures["R@1"]) if k in q.kinds else NONE for k in kinds)] for q in report.quality
    ]
    header = [*_name_header(report), *(f"{kind} ({counts[kind]:,})" for kind in kinds)]
    return TextTable(
        "Image retrieval by kind of caption", header, rows, len(_name_header(report)), "R@1 in percent; in brackets: captions."
    )


def cost_tables(report: EvaluationReport) -> list[TextTable]:
    """The times of single queries in milliseconds, one table per direction."""
    made = []
    several = len(report.bundles) > 1
    for direction in DIRECTIONS.values():
        some = [c for c in report.cost if c.direction == direction]
        rows = [
            [c.variant.label, *[c.variant.bundle] * several, f"{c.pairs:,}", *_stages(c), str(c.queries or "estimated")]
            for c in some
        ]
        header = ["system", *["bundle"] * several, "pairs", "encode", "ANN", "CE", "p50", "p95", "queries"]
        title = f"Cost of {direction}, pool of {max((c.pool for c in some), default=0):,}"
        note = f"Per query, one at a time; stages: medians. {_ce_cost(report, direction)} {report.machine}; {report.store}."
        made.append(TextTable(title, header, rows, 1 + several, note))
    return made


def _ce_cost(report: EvaluationReport, direction: Direction) -> str:
    """A sentence on the work that the cross-encoder's times include. For texts, it depends on what a bundle's collections keep."""
    if direction == "image retrieval":
        return "CE, every pair: the stored tokens are in memory, not fetched from Milvus."
    sides = {bundle.text_side for bundle in report.bundles}
    if len(sides) > 1:
        return " ".join(f"{bundle.name}: {_TEXT_SIDE[bundle.text_side]}" for bundle in report.bundles)
    return "".join(_TEXT_SIDE[side] for side in sides)


def growth_table(report: EvaluationReport) -> TextTable:
    """Median times by pool size."""
    sizes = sorted({c.pool for c in report.growth})
    by_row = {(c.variant, c.pool): c for c in report.growth}
    several = len(report.bundles) > 1
    rows = []
    for variant in dict.fromkeys(c.variant for c in report.growth):
        some = [by_row.get((variant, size)) for size in sizes]
        cells = [NONE if c is None else f"{milliseconds(c.total_ms.p50)}{'' if c.queries else ' (est.)'}" for c in some]
        rows.append([variant.label, *[variant.bundle] * several, *cells])
    header = ["system", *["bundle"] * several, *(f"{size:,}" for size in sizes)]
    note = "Median time of a text query by the number of images in the pool; est.: from pairs per second."
    return TextTable("Latency by pool size, image retrieval", header, rows, 1 + several, note)


def storage_table(report: EvaluationReport) -> TextTable:
    """The bytes per item, and the recall of the index."""
    recall = {(a.bundle, a.direction): a for a in report.ann_recall}
    rows = []
    for s in report.storage:
        ann = recall.get((s.bundle, DIRECTIONS[s.kind]))
        found = NONE if ann is None else ", ".join(f"{percent(r)} at {k}" for k, r in ann.recall.items())
        rows.append([s.bundle, f"{s.kind}s", f"{s.items:,}", f"{s.embedding_bytes:,.0f}", f"{s.content_bytes:,.0f}", found])
    header = ["bundle", "collection", "items", "embedding, bytes", "tokens or text, bytes", "ANN recall, %"]
    note = "Bytes per item as stored. ANN recall: share of the exact k nearest that Milvus' index returned."
    return TextTable("Storage and index", header, rows, 2, note)


def skipped_line(skipped: Skipped) -> str:
    """The reason why the exhaustive cross-encoder was skipped."""
    return (
        f"Exhaustive CE of {skipped.bundle} ({skipped.language}) skipped: {skipped.pairs:,} pairs, limit {skipped.limit:,}; "
        f"at {skipped.pairs_per_s:,.0f} pairs/s about {milliseconds(1000 * skipped.seconds)}; --max-pairs {skipped.pairs} runs it"
    )


def summary_lines(report: EvaluationReport) -> list[str]:
    """Sentences on the queries and pools, the changes by the cross-encoder, and the skipped runs."""
    lines = []
    for language, counts in report.queries.items():
        asked = f"{counts['image retrieval']:,} texts and {counts['text retrieval']:,} images as queries"
        pool = f"{report.images:,} images and {report.texts[language]:,} texts"
        lines.append(
            f"{language}: {asked}, among {pool}" + (f", in {report.folds} folds of 1,000 images" if report.folds > 1 else "")
        )
    if report.distractors:
        lines.append(f"{report.distractors:,} of the images are distractors")
    for bundle, changes in report.changes.items():
        for direction, (repaired, broken) in changes.items():
            lines.append(
                f"{bundle}, {direction}: the CE repaired {repaired} first answers and broke {broken} (k={report.headline_k})"
            )
    return lines + [skipped_line(skipped) for skipped in report.skipped]


def _stages(cost: Cost) -> list[str]:
    ann = NONE if cost.variant.system == "ce" else milliseconds(cost.ann_ms.p50)
    ce = milliseconds(cost.ce_ms.p50) if cost.pairs else NONE
    return [milliseconds(cost.encode_ms.p50), ann, ce, milliseconds(cost.total_ms.p50), milliseconds(cost.total_ms.p95)]


def _with_interval(figure: Interval) -> str:
    return f"{percent(figure.value)} [{percent(figure.low)}, {percent(figure.high)}]"


def _name_header(report: EvaluationReport) -> list[str]:
    return ["system"] + ["bundle"] * (len(report.bundles) > 1) + ["language"] * (len(report.queries) > 1)


def _names(report: EvaluationReport, q: Quality) -> list[str]:
    return [q.variant.label] + [q.variant.bundle] * (len(report.bundles) > 1) + [q.language] * (len(report.queries) > 1)
