"""Queries that the cross-encoder repaired or broke. Look at them before you believe a table."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from milvus_coop.errors import ImageError
from milvus_coop.models.preprocess.thumbnails import thumbnail
from milvus_coop.offline.evaluation.corpus import EvaluationCorpus
from milvus_coop.offline.evaluation.metrics import ranks_of
from milvus_coop.offline.evaluation.protocols import QueryPool
from milvus_coop.offline.evaluation.rankings import Ranking
from milvus_coop.offline.evaluation.records import DIRECTIONS, Case, Direction, Shown, SystemVariant
from milvus_coop.types import Array, Kind

TOP = 5
"""Number of items of each ranking that are shown."""
THUMBNAIL = 96
"""Pixels of the longer edge on the page. The image files have twice as many."""
LABEL = 300
"""Maximum number of characters of a text that are shown."""


def changed(
    corpus: EvaluationCorpus, pool: QueryPool, rankings: Mapping[Kind, Sequence[Ranking]], variant: SystemVariant
) -> tuple[list[Case], dict[Direction, tuple[int, int]]]:
    """Every query whose first answer became right or wrong, the largest moves first, and the numbers of both."""
    relevance: Mapping[Kind, Mapping[int, frozenset[int]]] = {"image": pool.relevant_images, "text": pool.relevant_texts}
    cases: list[Case] = []
    counts: dict[Direction, tuple[int, int]] = {}
    for kind, direction in DIRECTIONS.items():
        some = [c for r in rankings[kind] if (c := _case(corpus, pool, kind, r, relevance[kind][r.query], variant))]
        counts[direction] = (sum(case.repaired for case in some), sum(not case.repaired for case in some))
        cases += sorted(some, key=_moved, reverse=True)
    return cases, counts


def choose(cases: Sequence[Case], n: int) -> list[Case]:
    """The first n repaired and the first n broken ones of each direction."""
    chosen = []
    for direction in DIRECTIONS.values():
        for repaired in (True, False):
            chosen += [c for c in cases if c.direction == direction and c.repaired == repaired][:n]
    return chosen


def thumbnails(corpus: EvaluationCorpus, cases: Sequence[Case]) -> dict[int, bytes]:
    """Small JPEG files of all images that the cases show, by number. An image that cannot be read is left out."""
    wanted: set[int] = set()
    for case in cases:
        wanted |= {s.item for s in (*case.be, *case.coop)} if case.direction == "image retrieval" else {case.query}
    made = {}
    for number in sorted(wanted):
        with contextlib.suppress(ImageError):
            made[number] = thumbnail(corpus.images[number].path, 2 * THUMBNAIL, quality=70)
    return made


def _case(
    corpus: EvaluationCorpus, pool: QueryPool, kind: Kind, ranking: Ranking, right: frozenset[int], variant: SystemVariant
) -> Case | None:
    order = ranking.order(variant.k or 0)
    be, coop = (next(iter(ranks_of(items, right)), None) for items in (ranking.items, order))
    if (be == 1) == (coop == 1):
        return None
    scores = {
        int(item): (float(b), float(c)) for item, b, c in zip(ranking.items, ranking.be_scores, ranking.ce_scores, strict=True)
    }

    def shown(items: Array, score: int) -> tuple[Shown, ...]:
        return tuple(
            Shown(item, _label(corpus, pool.language, kind, item), scores[item][score], item in right)
            for item in items[:TOP].tolist()
        )

    return Case(
        variant=variant,
        language=pool.language,
        direction=DIRECTIONS[kind],
        query=ranking.query,
        label=_label(corpus, pool.language, "text" if kind == "image" else "image", ranking.query),
        be_rank=be,
        coop_rank=coop,
        be=shown(ranking.items, 0),
        coop=shown(order, 1),
    )


def _moved(case: Case) -> tuple[int, int]:
    far = 1 << 30
    return abs((case.be_rank or far) - (case.coop_rank or far)), -case.query


def _label(corpus: EvaluationCorpus, language: str, kind: Kind, number: int) -> str:
    label = corpus.texts[language][number].text if kind == "text" else corpus.images[number].id
    return label if len(label) <= LABEL else label[: LABEL - 1] + "…"
