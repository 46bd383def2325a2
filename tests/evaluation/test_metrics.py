from __future__ import annotations

import math
from collections import defaultdict

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG

from milvus_coop.offline.evaluation.metrics import METRICS, figures, hit, mean_recall, ndcg, ranks_of, reciprocal_rank


def naive(order: list[int], relevant: set[int]) -> list[float]:
    """The figures of `METRICS`, from a ranking, word by word."""
    hits = [1.0 if any(item in relevant for item in order[:k]) else 0.0 for k in (1, 5, 10)]
    reciprocal = 0.0
    for rank, item in enumerate(order[:10], start=1):
        if item in relevant:
            reciprocal = 1 / rank
            break
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(order[:10], start=1) if item in relevant)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(10, len(relevant)) + 1))
    return [*hits, reciprocal, gain / best]


@settings(deadline=None)
@given(st.permutations(range(30)), st.integers(0, 30), st.sets(st.integers(0, 39), min_size=1, max_size=15))
def test_figures_are_the_naive_ones(order: list[int], returned: int, relevant: set[int]) -> None:
    ranking = order[:returned]
    ranks = ranks_of(np.array(ranking, dtype=np.int64), frozenset(relevant))
    np.testing.assert_allclose(figures(ranks, len(relevant)), naive(ranking, relevant), atol=1e-12)


def test_figures_are_those_of_ir_measures() -> None:
    rng = np.random.default_rng(0)
    qrels, run, ours = [], [], []
    for query in range(60):
        relevant = set(rng.choice(40, size=rng.integers(1, 14), replace=False).tolist())
        order = rng.permutation(40)[: rng.integers(1, 40)]
        qrels += [Qrel(str(query), str(item), 1) for item in relevant]
        run += [ScoredDoc(str(query), str(item), -float(rank)) for rank, item in enumerate(order.tolist())]
        ours.append(figures(ranks_of(order, frozenset(relevant)), len(relevant)))
    measures = [Success @ 1, Success @ 5, Success @ 10, RR @ 10, nDCG @ 10]
    theirs = ir_measures.calc_aggregate(measures, qrels, run)
    np.testing.assert_allclose(np.mean(ours, axis=0), [theirs[m] for m in measures], atol=1e-9)


def test_equal_scores_count_in_the_order_of_the_ranking() -> None:
    """Who ranks breaks ties: we take a ranking, ir_measures takes scores and breaks ties by the items' names."""
    assert figures(ranks_of(np.array([7, 3]), frozenset({3})), 1)[0] == 0.0
    assert figures(ranks_of(np.array([3, 7]), frozenset({3})), 1)[0] == 1.0
    by_query: dict[str, float] = defaultdict(float)
    for metric in ir_measures.iter_calc([Success @ 1], [Qrel("q", "3", 1)], [ScoredDoc("q", "3", 0.5), ScoredDoc("q", "7", 0.5)]):
        by_query[metric.query_id] = metric.value
    assert by_query["q"] == 0.0  # whatever the order in which they were given: why our own rank must be made before


@pytest.mark.parametrize(("ranks", "expected"), [((), 0.0), ((11,), 0.0), ((2, 3), 0.5), ((10,), 0.1)])
def test_reciprocal_rank(ranks: tuple[int, ...], expected: float) -> None:
    assert reciprocal_rank(ranks) == expected


def test_a_hit_is_any_right_answer_not_the_share() -> None:
    assert hit((5, 70, 80), 5) == 1.0
    assert hit((6,), 5) == 0.0
    assert hit((), 5) == 0.0


def test_ndcg_knows_of_right_answers_that_were_not_returned() -> None:
    assert ndcg((1,), 1) == 1.0
    assert ndcg((1,), 2) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ndcg(tuple(range(1, 11)), 50) == pytest.approx(1.0)


def test_mean_recall_is_the_mean_of_six() -> None:
    assert METRICS[:3] == ("R@1", "R@5", "R@10")
    one, other = np.array([0.1, 0.2, 0.3, 9.0, 9.0]), np.array([0.4, 0.5, 0.6, 9.0, 9.0])
    assert mean_recall(one, other) == pytest.approx(0.35)
    assert mean_recall(np.stack([one, other]), np.stack([other, other])).shape == (2,)
