"""Confidence intervals of means over queries by percentile bootstrap. All systems share the resamples: differences are paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milvus_coop.types import Array

LEVEL = 0.95
CHUNK = 50
"""Resamples that are drawn at once. For 25,000 groups they take 10 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def mean_and_draws(values: Array, strata: Array, groups: Array, *, resamples: int, seed: int) -> tuple[Array, Array]:
    """Means over queries, and the means of resamples of the queries, which are drawn in groups with replacement.

    This is the cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8, and Cameron,
    Gelbach and Miller, "Bootstrap-Based Improvements for Inference with Clustered Errors" (2008), where it is called the pairs
    cluster bootstrap. The captions of one image succeed or fail together, so single captions would give intervals that are too
    narrow. A resample has as many groups as the data, each with all its queries, and its mean is that over these queries. Groups
    of one query each are the ordinary bootstrap.

    Groups are drawn within their stratum, and the mean is that of the strata's means: a stratum is one of the folds of MSCOCO's 1k
    protocol. The same seed and the same number of groups give the same draws, so two calls with the same groups are paired.

    Args:
        values: float array of shape (queries, columns); a row is drawn as a whole, so columns stay paired.
        strata: ints of shape (queries,).
        groups: ints of shape (queries,). Queries of one stratum with the same number are drawn together.
        resamples: how many times to draw.
        seed: the seed of the draws.

    Returns:
        Means of shape (columns,) and draws of shape (resamples, columns).
    """
    rng = np.random.default_rng(seed)
    means, draws = np.zeros(values.shape[1]), np.zeros((resamples, values.shape[1]))
    folds = np.unique(strata)
    for fold in folds:
        inside = strata == fold
        rows = values[inside].astype(np.float64)
        means += rows.mean(axis=0) / len(folds)
        sums, sizes = _by_group(rows, groups[inside])
        n = len(sizes)
        for start in range(0, resamples, CHUNK):
            some = min(CHUNK, resamples - start)
            counts = rng.multinomial(n, np.full(n, 1.0 / n), size=some)
            draws[start : start + some] += counts @ sums / (counts @ sizes)[:, None] / len(folds)
    return means, draws


def _by_group(rows: Array, groups: Array) -> tuple[Array, Array]:
    """The sum of the rows of every group, of shape (groups, columns), and the numbers of rows, of shape (groups,)."""
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    return np.add.reduceat(rows[order], starts, axis=0), sizes


def interval(value: float, draws: Array) -> Interval:
    """The percentile interval of one figure; `draws` has shape (resamples,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(draws) else (value, value)
    return Interval(float(value), float(low), float(high))
