"""Ranking figures of one query, from the ranks of its right answers. They count only answers that the system returned.

A query's ranking is given by the ranks (from 1) of the right answers that were returned, ascending; a right answer that was not
returned has no rank. The system that ranks breaks ties: Milvus by id, Coop by BE order, the exhaustive cross-encoder by the order
of the data. No system breaks ties by what is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from milvus_coop.types import Array

RECALLS = (1, 5, 10)
DEPTH = 10
"""Depth of MRR and nDCG, as in MMT-Retrieval, the paper's code."""

METRICS = (*(f"R@{k}" for k in RECALLS), f"MRR@{DEPTH}", f"nDCG@{DEPTH}")


def hit(ranks: Sequence[int], k: int) -> float:
    """R@k as it is defined in cross-modal retrieval: 1 if any right answer is among the first k, else 0.

    This is the hit rate (`Success@k` of ir-measures), not the share of right answers found: Karpathy and Fei-Fei, "Deep
    Visual-Semantic Alignments" (2015), section 4.2, and every MSCOCO and Flickr30k table since.
    """
    return float(bool(ranks) and ranks[0] <= k)


def reciprocal_rank(ranks: Sequence[int], k: int = DEPTH) -> float:
    """1 / rank of the first right answer, or 0 if that rank is beyond k. Its mean is MRR@k (Voorhees, TREC-8, 1999)."""
    return 1.0 / ranks[0] if ranks and ranks[0] <= k else 0.0


def ndcg(ranks: Sequence[int], relevant: int, k: int = DEPTH) -> float:
    """NDCG@k: the DCG with binary gains and the discount 1 / log2(1 + rank), divided by the DCG of the best possible ranking.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), in trec_eval's form.

    Args:
        ranks: the ranks of the right answers that were returned.
        relevant: the number of right answers, returned or not; at least 1.
        k: the depth.
    """
    ideal = sum(1.0 / math.log2(1 + rank) for rank in range(1, min(relevant, k) + 1))
    return sum(1.0 / math.log2(1 + rank) for rank in ranks if rank <= k) / ideal


def figures(ranks: Sequence[int], relevant: int) -> Array:
    """Every figure of `METRICS` for one query: float64 of shape (5,), each in [0, 1]."""
    return np.array([*(hit(ranks, k) for k in RECALLS), reciprocal_rank(ranks), ndcg(ranks, relevant)])


def ranks_of(order: Array, relevant: frozenset[int]) -> tuple[int, ...]:
    """Ranks of the right answers in `order`, which holds item numbers, best first."""
    return tuple(rank for rank, item in enumerate(order.tolist(), start=1) if item in relevant)


def mean_recall(*directions: Array) -> Array:
    """MR: the mean of R@1, R@5 and R@10 over the directions. With both directions it is the mean of six figures, as in the paper.

    Args:
        directions: arrays of shape (..., 5), with the columns of `METRICS`.

    Returns:
        Array of shape (...).
    """
    return np.asarray(np.mean([d[..., : len(RECALLS)].mean(axis=-1) for d in directions], axis=0))
