"""InfoNCE and ranks against versions that are too plain to be wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from milvus_coop.offline.training.objectives.retrieval import info_nce
from milvus_coop.offline.training.run.scoring import first_right_rank


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
    for row, right, rank in zip(scores, relevant, first_right_rank(scores, relevant), strict=True):
        order = sorted(range(30), key=lambda j: -row[j])
        assert rank == 1 + next(place for place, j in enumerate(order) if right[j])


def test_equal_scores_do_not_flatter() -> None:
    scores = np.zeros((1, 4))
    relevant = np.array([[False, True, False, False]])
    assert first_right_rank(scores, relevant).tolist() == [4]
