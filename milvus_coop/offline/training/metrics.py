"""Ranking and calibration figures with their standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from milvus_coop.types import Array

KS = (1, 5, 10)


@dataclass(frozen=True)
class Recalls:
    """For each query and k, true if a right answer is among the first k: bool (n, len(KS)), columns in the order of `KS`."""

    hits: Array

    def percent(self, k: int) -> float:
        """R@k in percent."""
        return float(100 * self.hits[:, KS.index(k)].mean())

    def error(self, k: int) -> float:
        """Standard error of R@k in percentage points."""
        return standard_error(100 * self.hits[:, KS.index(k)].astype(np.float64))


def first_right_rank(scores: Array, relevant: Array) -> Array:
    """The rank (from 1) of the best right answer. Wrong answers with an equal score count as better.

    Args:
        scores: (queries, answers).
        relevant: bool of the same shape; at least one True per row.
    """
    best = np.where(relevant, scores, -np.inf).max(1, keepdims=True)
    ranks: Array = 1 + ((scores >= best) & ~relevant).sum(1)
    return ranks


def recalls(scores: Array, relevant: Array) -> Recalls:
    """The hits of every query for R@1, R@5 and R@10."""
    ranks = first_right_rank(scores, relevant)
    return Recalls(np.stack([ranks <= k for k in KS], axis=1))


def standard_error(values: Array) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def binary_cross_entropy(probability: Array, target: Array) -> float:
    """The mean binary cross-entropy over all pairs, in nats."""
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return float(-np.where(target, np.log(clipped), np.log1p(-clipped)).mean())


def reliability_table(probability: Array, target: Array, edges: Array) -> list[tuple[float, float, int, float, float]]:
    """Rows of (lower edge, upper edge, pairs, mean probability, share of matches) for the bins that are not empty."""
    rows = []
    for low, high in pairwise(edges.tolist()):
        inside = (probability >= low) & ((probability < high) | (high == edges[-1]))
        if inside.any():
            rows.append((low, high, int(inside.sum()), float(probability[inside].mean()), float(target[inside].mean())))
    return rows
