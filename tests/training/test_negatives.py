"""Where negatives come from: never a right answer, drawn as promised, mined as an exact search would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from milvus_coop.offline.training.objectives.negatives import hard_negatives, mine, random_negatives
from milvus_coop.types import Array

DRAWS = 4000
NOISE = 5 * 0.5 / DRAWS**0.5  # five standard errors of a share


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(draw: list[int], columns: int) -> list[float]:
    return [draw.count(column) / len(draw) for column in range(columns)]


def test_random_negatives_are_uniform_over_what_is_wrong() -> None:
    same = torch.eye(5, dtype=torch.bool)
    same[0, 3] = True
    generator = dice()
    draws = torch.stack([random_negatives(same, generator) for _ in range(DRAWS)])
    for row in range(5):
        wrong = (~same[row]).float()
        assert shares(draws[:, row].tolist(), 5) == pytest.approx((wrong / wrong.sum()).tolist(), abs=NOISE)
        assert not same[row][draws[:, row]].any()


def test_hard_negatives_follow_the_softmax() -> None:
    cosines = torch.tensor([[1.0, 0.30, 0.25, -0.9], [0.1, 0.9, 0.2, 0.15], [0.3, 0.3, 1.0, 0.3], [0.0, 0.05, 0.9, 1.0]])
    same = torch.eye(4, dtype=torch.bool)
    same[3, 2] = True  # the nearest, and right
    generator = dice(1)
    draws = torch.stack([hard_negatives(cosines, same, generator, 0.1) for _ in range(DRAWS)])
    for row in range(4):
        wanted = [0.0 if same[row, j] else np.exp(cosines[row, j].item() / 0.1) for j in range(4)]
        assert shares(draws[:, row].tolist(), 4) == pytest.approx([w / sum(wanted) for w in wanted], abs=NOISE)


@pytest.mark.parametrize("draw", ["random", "hard"])
def test_a_row_without_negatives_gets_none(draw: str) -> None:
    same = torch.tensor([[True, True, True], [False, True, False], [True, True, True]])
    drawn = random_negatives(same, dice()) if draw == "random" else hard_negatives(torch.zeros(3, 3), same, dice())
    assert drawn[[0, 2]].tolist() == [-1, -1]
    assert drawn[1] in (0, 2)


def test_the_same_seed_draws_the_same() -> None:
    cosines, same = torch.rand(6, 6, generator=dice(2)), torch.eye(6, dtype=torch.bool)
    assert torch.equal(hard_negatives(cosines, same, dice(3)), hard_negatives(cosines, same, dice(3)))


def test_tiny_temperatures_take_the_nearest() -> None:
    cosines, same = torch.rand(6, 6, generator=dice(2)), torch.eye(6, dtype=torch.bool)
    nearest = cosines.masked_fill(same, -1).argmax(1)
    assert torch.equal(hard_negatives(cosines, same, dice(), 1e-5), nearest)


def naive(texts: Array, images: Array, owner: list[int], label: list[int], keep: int) -> tuple[list[list[int]], list[list[int]]]:
    """Exact search by sorting, pair by pair."""

    def right(caption: int, image: int) -> bool:
        return any(label[caption] == label[other] for other in range(len(owner)) if owner[other] == image)

    def best(scores: list[tuple[float, int]]) -> list[int]:
        found = [number for score, number in sorted(scores, reverse=True)][:keep]
        return found + [-1] * (keep - len(found))

    readable = [j for j in range(len(images)) if not np.isnan(images[j]).any()]
    of_text = [[(float(texts[i] @ images[j]), j) for j in readable if not right(i, j)] for i in range(len(texts))]
    of_image = [
        [(float(texts[i] @ images[j]), i) for i in range(len(texts)) if not right(i, j)] if j in readable else []
        for j in range(len(images))
    ]
    return [best(scores) for scores in of_text], [best(scores) for scores in of_image]


@pytest.mark.parametrize("keep", [1, 3, 20])
@pytest.mark.parametrize("queries", [1024, 4])
def test_mining_is_an_exact_search(keep: int, queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milvus_coop.offline.training.objectives.negatives._ROWS", queries)
    owner = [0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6]
    label = [0, 1, 2, 1, 3, 4, 5, 6, 3, 7, 7, 8]  # captions 1 and 3, 4 and 8, 9 and 10 say the same of different images
    texts, images = (functional.normalize(torch.randn(n, 6, generator=dice(n)), dim=-1) for n in (12, 7))
    images[3] = float("nan")  # could not be read
    mined = mine(texts, images, np.array(owner), np.array(label), keep)
    assert (mined.images.tolist(), mined.captions.tolist()) == naive(texts.numpy(), images.numpy(), owner, label, keep)


def test_mining_where_every_caption_is_the_same() -> None:
    texts, images = (functional.normalize(torch.randn(3, 4, generator=dice(n)), dim=-1) for n in (1, 2))
    mined = mine(texts, images, np.arange(3), np.zeros(3, np.int64), 2)
    assert (mined.images == -1).all()
    assert (mined.captions == -1).all()
