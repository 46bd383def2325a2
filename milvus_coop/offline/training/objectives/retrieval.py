"""Losses of the bi-encoder, over the cosine similarities of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_EXCLUDED = -1e9
_FAR = 2.0  # larger than any cosine distance that still matters, so that it removes a pair from a minimum


def hardest_triplet(texts: Tensor, images: Tensor, same: Tensor, margin: float = 0.1) -> Tensor:
    """Triplet loss with the hardest negative of the batch, in both directions.

    mean_i( max(0, d(t_i, v_i) - min_j d(t_j, v_i) + m) + max(0, d(t_i, v_i) - min_j d(t_i, v_j) + m) ) with d = 1 - cosine: VSE++
    (Faghri et al. 2018), as in `BatchHardTripletLoss` of Geigle et al. 2022, with margin 0.1.

    Args:
        texts: unit (B, dim).
        images: unit (B, dim); image i belongs to text i.
        same: bool (B, B), True where text i and image j are not negatives of each other, as on the diagonal.
        margin: m.

    Returns:
        A scalar. A row without a negative adds nothing.
    """
    distance = 1.0 - cosines(texts, images)
    positive = distance.diagonal()
    negatives = distance + _FAR * 2 * same
    nearest_text, nearest_image = negatives.min(0).values, negatives.min(1).values
    return (functional.relu(positive - nearest_text + margin) + functional.relu(positive - nearest_image + margin)).mean()


def sampled_triplet(anchors: Tensor, positives: Tensor, negatives: Tensor, margin: float = 0.1) -> Tensor:
    """Mean triplet loss over given negatives, as in the `ance` task of Geigle et al.'s code (Xiong et al. 2021).

    Args:
        anchors: unit (B, dim).
        positives: unit (B, dim).
        negatives: unit (B, n, dim).
        margin: as in `hardest_triplet`.
    """
    positive = 1.0 - (anchors * positives).sum(-1, keepdim=True)  # (B, 1)
    negative = 1.0 - cosines(anchors[:, None], negatives)[:, 0]  # (B, n)
    return functional.relu(positive - negative + margin).mean()


def info_nce(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord 2018) in which other pairs with the same label are left out of the denominator.

    Args:
        logits: (n, n). Row i belongs to column i.
        same: bool (n, n), True where row and column mean the same. The diagonal always holds the positives.
    """
    identity = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    masked = logits.masked_fill(same & ~identity, _EXCLUDED)
    targets = torch.arange(len(logits), device=logits.device)
    cross_entropy = functional.cross_entropy
    return (cross_entropy(masked, targets) + cross_entropy(masked.T, targets)) / 2


def distilled(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student against the teacher in both directions (Miech et al. 2021; LoopITR, Lei et al. 2022).

    Args:
        student: logits (B, B) of the bi-encoder: scaled cosines of every text with every image.
        teacher: logits (B, B) of the cross-encoder for the same pairs. No gradient flows into them.
        temperature: both logits are divided by it.
    """
    soft = teacher.detach() / temperature

    def one_way(learner: Tensor, target: Tensor) -> Tensor:
        return -(target.softmax(1) * learner.log_softmax(1)).sum(1).mean()

    return (one_way(student / temperature, soft) + one_way(student.T / temperature, soft.T)) / 2


def scaled_cosines(texts: Tensor, images: Tensor, log_scale: Tensor) -> Tensor:
    """Unit (B, dim) twice -> logits (B, B). The scale is learnt and at most 100 (Radford et al. 2021)."""
    return torch.exp(log_scale.clamp(max=4.6052)) * cosines(texts, images)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Unit (..., n, dim) and (..., m, dim) -> (..., n, m). float32 even under autocast: bfloat16 has steps of 0.004 near 1."""
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().transpose(-1, -2)
