"""Negatives: random ones, hard ones of the batch, and the bi-encoder's best ones of the whole set (ANCE)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from milvus_coop.types import Array

_ROWS = 1024
"""Queries per block of the similarity matrix when mining."""


def random_negatives(same: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one column for each row, uniformly from those that are not `same`. -1 if there is none.

    Args:
        same: bool (B, B).
        generator: random generator.

    Returns:
        int64 (B,).
    """
    return _draw((~same).float(), generator)


def hard_negatives(cosines: Tensor, same: Tensor, generator: torch.Generator, temperature: float = 0.05) -> Tensor:
    """Draw one column for each row by softmax(cosine / temperature) over those that are not `same` (ALBEF, Li et al. 2021).

    Returns:
        int64 (B,); -1 for a row without such a column.
    """
    logits = (cosines.float() / temperature).masked_fill(same, float("-inf"))
    shifted = logits - logits.amax(1, keepdim=True).clamp(min=-1e9)
    return _draw(shifted.exp(), generator)


def _draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    possible = weights.sum(1) > 0
    chosen = torch.multinomial(torch.where(possible[:, None], weights, 1.0).cpu(), 1, generator=generator)[:, 0]
    return torch.where(possible.cpu(), chosen, -1)


@dataclass(frozen=True)
class Mined:
    """The best wrong answers of every query, in both directions. Short lists are filled with -1."""

    images: Array
    """Wrong images near each caption, int64 (captions, n)."""
    captions: Array
    """Wrong captions near each image, int64 (images, n)."""


def mine(texts: Tensor, images: Tensor, owner: Array, label: Array, keep: int) -> Mined:
    """The `keep` nearest wrong answers by exact search, after ANCE (Xiong et al. 2021).

    Args:
        texts: unit (captions, dim).
        images: unit (images, dim). Images with a row of NaN are in no list.
        owner: image of each caption, int64 (captions,).
        label: int64 (captions,), with equal numbers for equal texts. An image is right for every caption of the same text.
        keep: the number of answers to keep.
    """
    captions_of_text = _groups(label, int(label.max(initial=-1)) + 1)
    owners_of_text = [np.unique(owner[captions]) for captions in captions_of_text]
    right_images = [owners_of_text[number] for number in label]
    right_captions = [
        np.concatenate([captions_of_text[number] for number in np.unique(label[own])]) for own in _groups(owner, len(images))
    ]
    return Mined(_nearest(texts, images, right_images, keep), _nearest(images, texts, right_captions, keep))


def _groups(numbers: Array, count: int) -> list[Array]:
    """Positions of each of the numbers 0 to count - 1."""
    order = np.argsort(numbers, kind="stable")
    edges = np.searchsorted(numbers[order], np.arange(count + 1))
    return [order[start:end] for start, end in pairwise(edges)]


def _nearest(queries: Tensor, answers: Tensor, right: list[Array], keep: int) -> Array:
    most_right = max((len(rows) for rows in right), default=0)
    depth = min(keep + most_right, len(answers))
    found = np.full((len(queries), keep), -1, dtype=np.int64)
    for start in range(0, len(queries), _ROWS):
        similarity = torch.nan_to_num(queries[start : start + _ROWS] @ answers.T, nan=float("-inf"))
        best = similarity.topk(depth, dim=1)
        for row, (values, candidates) in enumerate(zip(best.values.cpu().numpy(), best.indices.cpu().numpy(), strict=True), start):
            wrong = candidates[np.isfinite(values) & ~np.isin(candidates, right[row])][:keep]
            found[row, : len(wrong)] = wrong
    return found
