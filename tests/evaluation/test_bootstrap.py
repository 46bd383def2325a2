from __future__ import annotations

import numpy as np
import pytest

from milvus_coop.offline.evaluation.bootstrap import interval, mean_and_draws


def test_draws_are_spread_as_naive_ones() -> None:
    rng = np.random.default_rng(1)
    values = (rng.random((80, 1)) < 0.3).astype(float)
    mean, draws = mean_and_draws(values, np.zeros(80, dtype=int), resamples=4000, seed=0)
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
        mean, draws = mean_and_draws(values, np.zeros(150, dtype=int), resamples=300, seed=seed)
        found = interval(mean[0], draws[:, 0])
        assert found.low <= found.value <= found.high
        inside += found.low <= 0.4 <= found.high
    assert 180 <= inside <= 200  # 190 expected, standard deviation 3


def test_columns_stay_paired() -> None:
    values = np.random.default_rng(3).random((50, 1))
    _, draws = mean_and_draws(np.hstack([values, values + 0.25]), np.zeros(50, dtype=int), resamples=100, seed=0)
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 0.25)  # queries of their own would scatter by 0.06


def test_the_mean_is_that_of_the_strata() -> None:
    values = np.array([[1.0], [1.0], [1.0], [0.0]])
    mean, draws = mean_and_draws(values, np.array([0, 0, 0, 1]), resamples=20, seed=0)
    assert mean[0] == 0.5
    assert set(draws[:, 0]) == {0.5}  # queries are drawn within their fold


def test_the_same_seed_gives_the_same() -> None:
    values = np.random.default_rng(4).random((30, 2))
    once, again = (mean_and_draws(values, np.zeros(30, dtype=int), resamples=70, seed=5)[1] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (mean_and_draws(values, np.zeros(30, dtype=int), resamples=70, seed=6)[1] != once).any()
