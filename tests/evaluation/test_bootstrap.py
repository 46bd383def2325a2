from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from milvus_coop.offline.evaluation import SystemVariant
from milvus_coop.offline.evaluation.bootstrap import interval, mean_and_draws
from milvus_coop.offline.evaluation.corpus import build_corpus
from milvus_coop.offline.evaluation.protocols import pools
from milvus_coop.offline.evaluation.quality import Tally, qualities
from milvus_coop.offline.evaluation.rankings import Ranking
from milvus_coop.types import Array, Kind
from tests.evaluation.kit import Given, item


def alone(n: int) -> tuple[Array, Array]:
    """One stratum, and a group for each query."""
    return np.zeros(n, dtype=int), np.arange(n)


def test_draws_are_spread_as_naive_ones() -> None:
    rng = np.random.default_rng(1)
    values = (rng.random((80, 1)) < 0.3).astype(float)
    mean, draws = mean_and_draws(values, *alone(80), resamples=4000, seed=0)
    naive = [values[rng.integers(0, 80, 80)].mean() for _ in range(4000)]
    assert mean[0] == pytest.approx(values.mean())
    # 4,000 draws tell a standard deviation to about 1 %, its quantiles to about 3 %.
    assert draws.std() == pytest.approx(np.std(naive), rel=0.06)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.02)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for seed in range(200):
        values = (rng.random((150, 1)) < 0.4).astype(float)
        mean, draws = mean_and_draws(values, *alone(150), resamples=300, seed=seed)
        found = interval(mean[0], draws[:, 0])
        assert found.low <= found.value <= found.high
        inside += found.low <= 0.4 <= found.high
    assert 180 <= inside <= 200  # 190 expected, standard deviation 3


def test_columns_stay_paired() -> None:
    values = np.random.default_rng(3).random((50, 1))
    _, draws = mean_and_draws(np.hstack([values, values + 0.25]), *alone(50), resamples=100, seed=0)
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 0.25)  # queries of their own would scatter by 0.06


def test_the_mean_is_that_of_the_strata() -> None:
    values = np.array([[1.0], [1.0], [1.0], [0.0]])
    mean, draws = mean_and_draws(values, np.array([0, 0, 0, 1]), np.arange(4), resamples=20, seed=0)
    assert mean[0] == 0.5
    assert set(draws[:, 0]) == {0.5}  # queries are drawn within their fold


def test_the_same_seed_gives_the_same() -> None:
    values = np.random.default_rng(4).random((30, 2))
    once, again = (mean_and_draws(values, *alone(30), resamples=70, seed=5)[1] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (mean_and_draws(values, *alone(30), resamples=70, seed=6)[1] != once).any()


def test_groups_of_one_are_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(7).random((40, 3))
    mean, draws = mean_and_draws(values, *alone(40), resamples=60, seed=8)
    rng = np.random.default_rng(8)
    counts = np.vstack([rng.multinomial(40, np.full(40, 1 / 40), size=some) for some in (50, 10)])
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(draws, counts @ values / 40)


def test_queries_with_the_outcome_of_their_group_are_worth_no_more_than_the_groups() -> None:
    values = (np.random.default_rng(9).random((40, 2)) < 0.4).astype(float)
    groups = np.random.default_rng(10).permutation(np.repeat(np.arange(40), 5))  # five captions of each image, in any order
    of_groups = mean_and_draws(values, *alone(40), resamples=90, seed=1)
    of_queries = mean_and_draws(values[groups], np.zeros(200, dtype=int), groups, resamples=90, seed=1)
    for ours, expected in zip(of_queries, of_groups, strict=True):
        np.testing.assert_allclose(ours, expected)
    assert mean_and_draws(values[groups], *alone(200), resamples=90, seed=1)[1].std() < 0.6 * of_queries[1].std()


def test_draws_of_groups_are_spread_as_naive_ones() -> None:
    """Groups of 1 to 5 queries, in two folds, whose queries succeed and fail together in part."""
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    values = (rng.random(len(groups)) < rng.random(60)[groups]).astype(float)[:, None]
    strata = groups % 2
    mean, draws = mean_and_draws(values, strata, groups, resamples=4000, seed=0)
    members = [values[groups == group] for group in range(60)]

    def naive(fold: int) -> float:
        drawn = rng.choice(np.arange(fold, 60, 2), 30)
        return float(np.concatenate([members[group] for group in drawn]).mean())

    expected = [(naive(0) + naive(1)) / 2 for _ in range(4000)]
    assert mean[0] == pytest.approx((values[strata == 0].mean() + values[strata == 1].mean()) / 2)
    assert draws.std() == pytest.approx(np.std(expected), rel=0.06)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=0.02)


def test_intervals_of_groups_hold_the_truth_where_those_of_queries_do_not() -> None:
    rng = np.random.default_rng(12)
    inside = {"groups": 0, "queries": 0}
    groups = np.repeat(np.arange(100), 5)
    for seed in range(200):
        values = np.repeat((rng.random((100, 1)) < 0.4).astype(float), 5, axis=0)
        for name, some in (("groups", groups), ("queries", np.arange(500))):
            mean, draws = mean_and_draws(values, np.zeros(500, dtype=int), some, resamples=200, seed=seed)
            found = interval(mean[0], draws[:, 0])
            inside[name] += found.low <= 0.4 <= found.high
    assert 180 <= inside["groups"] <= 200
    assert inside["queries"] < 150


def test_the_captions_of_an_image_are_drawn_together(tmp_path: Path) -> None:
    """As many queries find their image in both data sets; in one of them, the captions of an image all do or all do not."""
    corpus = build_corpus(Given([item(i, *(f"image {i}, {j}" for j in range(5))) for i in range(40)]), tmp_path)
    (pool,) = pools(corpus)
    variant = SystemVariant("any", "be")

    def width(found: Callable[[int], bool]) -> float:
        tally = Tally([variant])
        answers: dict[Kind, list[Ranking]] = {
            "image": [answer(q, min(right) if found(q) else -1) for q, right in pool.relevant_images.items()],
            "text": [answer(q, min(right)) for q, right in pool.relevant_texts.items()],
        }
        tally.add(pool, answers, None, (1,))
        (quality,) = qualities(tally, "en", corpus.texts["en"], resamples=1000, seed=0)
        assert quality.figures["image retrieval"]["R@1"].value == 0.5
        return quality.figures["image retrieval"]["R@1"].high - quality.figures["image retrieval"]["R@1"].low

    assert width(lambda text: text // 5 % 2 == 0) == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.15)
    assert width(lambda text: text % 10 in (0, 1, 5, 6, 7)) < 0.1  # two or three of five for every image


def answer(query: int, item: int) -> Ranking:
    one = np.array([item])
    return Ranking(query, one, np.ones(1, np.float32), np.ones(1, np.float32), np.ones(1, np.int64))
