"""Losses and metrics against versions that are too plain to be wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from milvus_coop.offline.training import metrics
from milvus_coop.offline.training.losses import info_nce, softmax_over_positives


def test_softmax_over_positives_is_the_naive_sum() -> None:
    torch.manual_seed(0)
    logits, positive = torch.randn(5, 7), torch.rand(5, 7) < 0.4
    positive[2] = False
    rows = []
    for row, right in zip(logits.tolist(), positive.tolist(), strict=True):
        if any(right):
            share = sum(math.exp(x) for x, r in zip(row, right, strict=True) if r) / sum(math.exp(x) for x in row)
            rows.append(-math.log(share))
    assert softmax_over_positives(logits, positive).item() == pytest.approx(sum(rows) / len(rows), rel=1e-5)


def test_info_nce_leaves_out_pairs_of_the_same_label() -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 4)
    labels = [0, 1, 0, 2]
    same = torch.tensor([[a == b for b in labels] for a in labels])
    total = 0.0
    for matrix in (logits, logits.T):
        for i in range(4):
            kept = [math.exp(matrix[i, j]) for j in range(4) if j == i or labels[j] != labels[i]]
            total -= math.log(math.exp(matrix[i, i]) / sum(kept))
    assert info_nce(logits, same).item() == pytest.approx(total / 8, rel=1e-5)


def test_info_nce_of_perfect_scores_is_zero() -> None:
    assert info_nce(torch.eye(6) * 100, torch.eye(6, dtype=torch.bool)).item() == pytest.approx(0.0, abs=1e-6)


def test_ranks_agree_with_sorting() -> None:
    dice = np.random.default_rng(0)
    scores = dice.normal(size=(20, 30))
    relevant = dice.random((20, 30)) < 0.1
    relevant[:, 0] = True
    for row, right, rank in zip(scores, relevant, metrics.first_right_rank(scores, relevant), strict=True):
        order = sorted(range(30), key=lambda j: -row[j])
        assert rank == 1 + next(place for place, j in enumerate(order) if right[j])


def test_equal_scores_do_not_flatter() -> None:
    scores = np.zeros((1, 4))
    relevant = np.array([[False, True, False, False]])
    assert metrics.first_right_rank(scores, relevant).tolist() == [4]


def test_reliability_table_counts_every_pair_once() -> None:
    probability = np.array([0.0, 0.05, 0.3, 0.99, 1.0])
    target = np.array([False, False, True, True, True])
    rows = metrics.reliability_table(probability, target, np.array([0.0, 0.1, 0.5, 1.0]))
    assert [row[2] for row in rows] == [2, 1, 2]
    assert [row[4] for row in rows] == [0.0, 1.0, 1.0]


def test_cross_entropy_of_the_base_rate_is_its_entropy() -> None:
    target = np.array([True, False, False, False])
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert metrics.binary_cross_entropy(np.full(4, 0.25), target) == pytest.approx(expected)
