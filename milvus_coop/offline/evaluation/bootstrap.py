"""Confidence intervals of means over queries by percentile bootstrap. All systems share the resamples: differences are paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milvus_coop.types import Array

LEVEL = 0.95
CHUNK = 50
"""Resamples that are drawn at once. For 25,000 queries they take 10 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def mean_and_draws(values: Array, strata: Array, *, resamples: int, seed: int) -> tuple[Array, Array]:
    """Means over queries, and the means of resamples of the queries, which are drawn with replacement.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Queries are drawn within their stratum, and the
    mean is that of the strata's means: a stratum is one of the folds of MSCOCO's 1k protocol.

    Args:
        values: float array of shape (queries, columns); a row is drawn as a whole, so columns stay paired.
        strata: ints of shape (queries,).
        resamples: how many times to draw.
        seed: the seed of the draws.

    Returns:
        Means of shape (columns,) and draws of shape (resamples, columns).
    """
    rng = np.random.default_rng(seed)
    means, draws = np.zeros(values.shape[1]), np.zeros((resamples, values.shape[1]))
    groups = np.unique(strata)
    for group in groups:
        rows = values[strata == group].astype(np.float64)
        n = len(rows)
        means += rows.mean(axis=0) / len(groups)
        for start in range(0, resamples, CHUNK):
            some = min(CHUNK, resamples - start)
            counts = rng.multinomial(n, np.full(n, 1.0 / n), size=some)
            draws[start : start + some] += counts @ rows / n / len(groups)
    return means, draws


def interval(value: float, draws: Array) -> Interval:
    """The percentile interval of one figure; `draws` has shape (resamples,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(draws) else (value, value)
    return Interval(float(value), float(low), float(high))
