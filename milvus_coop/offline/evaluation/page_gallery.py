"""The gallery of the page: both rankings of a query side by side, with the right answers marked."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from milvus_coop.offline.evaluation.records import DIRECTIONS, Case, EvaluationReport, Shown


def gallery_html(report: EvaluationReport) -> str:
    """The HTML of all cases, grouped by bundle and direction. '' if there are none."""
    parts: list[str] = []
    for bundle, changes in report.changes.items():
        for direction in DIRECTIONS.values():
            some = [c for c in report.cases if c.variant.bundle == bundle and c.direction == direction]
            repaired, broken = changes.get(direction, (0, 0))
            if not some:
                continue
            parts.append(f"<h3>{escape(f'{direction.capitalize()}, {some[0].variant.label}, {bundle}')}</h3>")
            parts.append(
                f'<p class="soft">First answer repaired {repaired:,} times, broken {broken:,} times; '
                f"shown are the {len(some)} that moved farthest.</p>"
            )
            parts += [_case(case, report.thumbnails) for case in some]
    if not parts:
        return ""
    intro = "<p>Queries whose first answer the cross-encoder changed; right answers in green.</p>"
    return f'<h2 id="gallery">Repaired and broken</h2>{intro}{"".join(parts)}'


def thumbnail_style(thumbnails: Mapping[int, bytes]) -> str:
    """CSS that contains each image once, as the background of a class."""
    rules = (
        f".t{n}{{background-image:url(data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})}}" for n, jpeg in thumbnails.items()
    )
    return "\n".join(rules)


def _case(case: Case, thumbnails: Mapping[int, bytes]) -> str:
    way, word = ("up", "repaired") if case.repaired else ("down", "broken")
    rank = f'<span class="{way}">{word}</span>: right answer at {_rank(case.be_rank)} → {_rank(case.coop_rank)}'
    asked = f'<div class="asked">{escape(case.label)}</div>'
    thumb = _thumb(case.query, case.label, thumbnails) if case.direction == "text retrieval" else ""
    query = f'<div class="query">{thumb}<div>{asked}<div class="soft">{rank}</div></div></div>'
    sides = "".join(
        f'<div><div class="soft">{escape(name)}</div>{_ranking(case, some, thumbnails)}</div>'
        for name, some in (("Bi-encoder, cosine", case.be), (f"{case.variant.label}, match probability", case.coop))
    )
    return f'<div class="case">{query}<div class="sides">{sides}</div></div>'


def _ranking(case: Case, shown: Sequence[Shown], thumbnails: Mapping[int, bytes]) -> str:
    if case.direction == "image retrieval":
        items = "".join(f'<li class="{_right(s)}">{_thumb(s.item, s.label, thumbnails)}{_mark(s)}{s.score:.3f}</li>' for s in shown)
        return f'<ol class="row">{items}</ol>'
    items = "".join(
        f'<li class="{_right(s)}">{escape(s.label)} <span class="soft">{s.score:.3f}</span> {_mark(s)}</li>' for s in shown
    )
    return f'<ol class="lines">{items}</ol>'


def _thumb(number: int, label: str, thumbnails: Mapping[int, bytes]) -> str:
    known = f" t{number}" if number in thumbnails else ""
    return f'<span class="thumb{known}" role="img" aria-label="{escape(label)}" title="{escape(label)}"></span>'


def _right(shown: Shown) -> str:
    return "right" if shown.right else "wrong"


def _mark(shown: Shown) -> str:
    return "✓ " if shown.right else ""


def _rank(rank: int | None) -> str:
    return "none" if rank is None else str(rank)
