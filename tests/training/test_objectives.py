"""Every loss of a run against loops that are too plain to be wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from milvus_coop.offline.training.objectives.matching import list_loss, match_loss
from milvus_coop.offline.training.objectives.retrieval import cosines, distilled, hardest_triplet, sampled_triplet, scaled_cosines

EXACT = 1e-5  # float32 sums in another order


def unit(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def distance(left: Tensor, right: Tensor) -> float:
    return 1.0 - float(sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True)))


@pytest.mark.parametrize("margin", [0.1, 0.7])
def test_hardest_triplet_is_the_paper_s_loop(margin: float) -> None:
    texts, images = unit(6, 8), unit(6, 8, seed=1)
    owners = [0, 1, 0, 2, 3, 2]  # items 0 and 2 show the same image, 3 and 5 too
    same = torch.tensor([[a == b for b in owners] for a in owners])
    total = 0.0
    for i in range(6):
        positive = distance(texts[i], images[i])
        others = [j for j in range(6) if owners[j] != owners[i]]
        total += max(0.0, positive - min(distance(texts[j], images[i]) for j in others) + margin)
        total += max(0.0, positive - min(distance(texts[i], images[j]) for j in others) + margin)
    assert total > 0
    assert hardest_triplet(texts, images, same, margin).item() == pytest.approx(total / 6, rel=EXACT)


def test_hardest_triplet_reads_the_mask_by_text_and_image() -> None:
    """`same` need not be symmetric: text 0 is true of image 1, text 1 is not of image 0."""
    texts, images = unit(3, 4), unit(3, 4, seed=1)
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = True
    total = 0.0
    for i in range(3):
        positive = distance(texts[i], images[i])
        wrong_texts = [distance(texts[j], images[i]) for j in range(3) if not same[j, i]]
        wrong_images = [distance(texts[i], images[j]) for j in range(3) if not same[i, j]]
        total += max(0.0, positive - min(wrong_texts) + 0.9) + max(0.0, positive - min(wrong_images) + 0.9)
    assert hardest_triplet(texts, images, same, 0.9).item() == pytest.approx(total / 3, rel=EXACT)


def test_hardest_triplet_without_negatives_is_no_loss() -> None:
    texts, images = unit(3, 4), -unit(3, 4)  # as far apart as can be
    assert hardest_triplet(texts, images, torch.ones(3, 3, dtype=torch.bool)).item() == 0.0


def test_hardest_triplet_pulls_the_right_way() -> None:
    texts = unit(4, 8).requires_grad_()
    images = unit(4, 8, seed=1)
    loss = hardest_triplet(texts, images, torch.eye(4, dtype=torch.bool), 0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert texts.grad is not None
    better = functional.normalize(texts.detach() - 0.1 * texts.grad, dim=-1)
    assert hardest_triplet(better, images, torch.eye(4, dtype=torch.bool), 0.5) < loss


def test_sampled_triplet_is_the_mean_over_all_negatives() -> None:
    anchors, positives, negatives = unit(4, 8), unit(4, 8, seed=1), unit(4, 5, 8, seed=2)
    terms = [
        max(0.0, distance(anchors[i], positives[i]) - distance(anchors[i], negatives[i, j]) + 0.3)
        for i in range(4)
        for j in range(5)
    ]
    assert sum(terms) > 0
    assert sampled_triplet(anchors, positives, negatives, 0.3).item() == pytest.approx(sum(terms) / 20, rel=EXACT)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distilled_is_the_cross_entropy_of_both_directions(temperature: float) -> None:
    dice = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(4, 4, generator=dice), 3 * torch.randn(4, 4, generator=dice)
    total = 0.0
    for learner, master in ((student, teacher), (student.T, teacher.T)):
        for i in range(4):
            wanted = [math.exp(x / temperature) for x in master[i].tolist()]
            given = [math.exp(x / temperature) for x in learner[i].tolist()]
            total -= sum(w / sum(wanted) * math.log(g / sum(given)) for w, g in zip(wanted, given, strict=True))
    assert distilled(student, teacher, temperature).item() == pytest.approx(total / 8, rel=EXACT)


def test_distilling_teaches_the_student_alone() -> None:
    student, teacher = torch.zeros(3, 3, requires_grad=True), torch.eye(3, requires_grad=True)
    distilled(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    assert (student.grad.diagonal() < 0).all()


def test_match_loss_is_the_paper_s_softmax_over_two_classes() -> None:
    """Geigle et al. have two logits per pair; only their difference counts."""
    dice = torch.Generator().manual_seed(4)
    two = 4 * torch.randn(10, 2, generator=dice)  # five matched pairs, then five mismatched ones
    wanted = functional.cross_entropy(two, torch.tensor([1] * 5 + [0] * 5))
    one = two[:, 1] - two[:, 0]
    assert match_loss(one[:5], one[5:]).item() == pytest.approx(wanted.item(), rel=EXACT)


def test_match_loss_weighs_both_kinds_alike() -> None:
    assert match_loss(torch.zeros(1), torch.zeros(7)).item() == pytest.approx(math.log(2))
    assert match_loss(torch.tensor([50.0]), torch.tensor([-50.0])).item() == pytest.approx(0.0, abs=1e-6)


def test_list_loss_picks_the_first() -> None:
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    shares = [math.exp(row[0]) / sum(math.exp(x) for x in row) for row in logits.tolist()]
    assert list_loss(logits).item() == pytest.approx(-sum(map(math.log, shares)) / 3, rel=EXACT)


def test_scaled_cosines_never_exceed_a_hundred() -> None:
    texts, images = unit(2, 4), unit(3, 4, seed=1)
    plain = texts @ images.T
    assert torch.allclose(scaled_cosines(texts, images, torch.tensor(2.0)), math.exp(2) * plain, rtol=EXACT)
    assert torch.allclose(scaled_cosines(texts, images, torch.tensor(9.0)), 100 * plain, rtol=1e-4)


def test_cosines_keep_float32_under_autocast() -> None:
    texts, images = unit(5, 8), unit(6, 8, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, kept = texts @ images.T, cosines(texts, images)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(kept, texts @ images.T)
