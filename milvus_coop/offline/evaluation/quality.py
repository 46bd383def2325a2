"""Figures from rankings. All systems of a bundle answer the same queries, so that differences are paired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from milvus_coop.offline.evaluation.bootstrap import Interval, interval, mean_and_draws
from milvus_coop.offline.evaluation.corpus import Text
from milvus_coop.offline.evaluation.exhaustive import Ranks
from milvus_coop.offline.evaluation.metrics import METRICS, figures, hit, mean_recall, ranks_of
from milvus_coop.offline.evaluation.protocols import QueryPool
from milvus_coop.offline.evaluation.rankings import Ranking
from milvus_coop.offline.evaluation.records import DIRECTIONS, KindFigures, Quality, Reach, SystemVariant
from milvus_coop.types import Array, Kind


@dataclass
class Tally:
    """The figures of every query, for one bundle and one language, fold after fold."""

    variants: Sequence[SystemVariant]
    queries: dict[Kind, list[int]] = field(default_factory=lambda: {"image": [], "text": []})
    folds: dict[Kind, list[int]] = field(default_factory=lambda: {"image": [], "text": []})
    groups: dict[Kind, list[int]] = field(default_factory=lambda: {"image": [], "text": []})
    """The image that stands for each query in the bootstrap: an image query itself, or the first of the images of a text."""
    values: dict[Kind, list[Array]] = field(default_factory=lambda: {"image": [], "text": []})
    """One array of shape (variants, metrics) per query."""
    reach: dict[Kind, list[Array]] = field(default_factory=lambda: {"image": [], "text": []})

    def add(self, pool: QueryPool, rankings: Mapping[Kind, Sequence[Ranking]], exhaustive: Ranks | None, ks: Sequence[int]) -> None:
        """Add the queries of one pool."""
        relevance: Mapping[Kind, Mapping[int, frozenset[int]]] = {"image": pool.relevant_images, "text": pool.relevant_texts}
        for kind, found in rankings.items():
            for ranking in found:
                right = relevance[kind][ranking.query]
                ranks = [_ranks(c, ranking, kind, right, exhaustive) for c in self.variants]
                self.values[kind].append(np.stack([figures(some, len(right)) for some in ranks]))
                be_ranks = ranks_of(ranking.items, right)
                self.reach[kind].append(np.array([hit(be_ranks, k) for k in ks]))
                self.queries[kind].append(ranking.query)
                self.folds[kind].append(pool.fold)
                self.groups[kind].append(min(right) if kind == "image" else ranking.query)

    def drawn_by(self, kind: Kind) -> tuple[Array, Array]:
        """The strata and the groups of the bootstrap."""
        return np.array(self.folds[kind]), np.array(self.groups[kind])


def _ranks(
    variant: SystemVariant, ranking: Ranking, kind: Kind, right: frozenset[int], exhaustive: Ranks | None
) -> tuple[int, ...]:
    if variant.system == "ce" and exhaustive is not None:
        return exhaustive[kind][ranking.query]
    return ranks_of(ranking.order(variant.k or 0), right)


def qualities(tally: Tally, language: str, texts: Sequence[Text], *, resamples: int, seed: int) -> list[Quality]:
    """Means and intervals of every variant."""
    n = len(tally.variants)
    means: dict[Kind, Array] = {}
    draws: dict[Kind, Array] = {}
    for kind in DIRECTIONS:
        stacked = np.stack(tally.values[kind]).reshape(len(tally.values[kind]), -1)
        mean, drawn = mean_and_draws(stacked, *tally.drawn_by(kind), resamples=resamples, seed=seed)
        means[kind], draws[kind] = mean.reshape(n, -1), drawn.reshape(resamples, n, -1)
    mr = mean_recall(*means.values()), mean_recall(*draws.values())
    be = next((i for i, c in enumerate(tally.variants) if c.system == "be"), None)
    kinds = _by_kind(tally, texts)
    return [
        Quality(
            variant=variant,
            language=language,
            figures={
                direction: {m: interval(means[kind][i, j], draws[kind][:, i, j]) for j, m in enumerate(METRICS)}
                for kind, direction in DIRECTIONS.items()
            },
            mean_recall=interval(mr[0][i], mr[1][:, i]),
            gain={} if be is None or i == be else _gain(means, draws, mr, i, be),
            kinds=kinds(i),
        )
        for i, variant in enumerate(tally.variants)
    ]


def _gain(
    means: Mapping[Kind, Array], draws: Mapping[Kind, Array], mr: tuple[Array, Array], i: int, be: int
) -> dict[str, Interval]:
    gain = {
        f"R@1, {direction}": interval(means[kind][i, 0] - means[kind][be, 0], draws[kind][:, i, 0] - draws[kind][:, be, 0])
        for kind, direction in DIRECTIONS.items()
    }
    return {**gain, "mR": interval(mr[0][i] - mr[0][be], mr[1][:, i] - mr[1][:, be])}


def _by_kind(tally: Tally, texts: Sequence[Text]) -> Callable[[int], Mapping[str, KindFigures]]:
    """Image retrieval by kind of caption: means over queries."""
    kinds = [texts[query].kind for query in tally.queries["image"]]
    names = sorted({kind for kind in kinds if kind})
    rows = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in names}
    values = np.stack(tally.values["image"])

    def of(variant: int) -> dict[str, KindFigures]:
        means = {name: values[rows[name], variant].mean(axis=0) for name in names}
        return {n: KindFigures(len(rows[n]), dict(zip(METRICS, mean.tolist(), strict=True))) for n, mean in means.items()}

    return of


def reaches(tally: Tally, bundle: str, language: str, ks: Sequence[int]) -> list[Reach]:
    """The share of queries whose candidates hold a right answer, by k."""
    found = []
    for kind, direction in DIRECTIONS.items():
        means, _ = mean_and_draws(np.stack(tally.reach[kind]), *tally.drawn_by(kind), resamples=0, seed=0)
        found.append(Reach(bundle, language, direction, dict(zip(ks, means.tolist(), strict=True))))
    return found
