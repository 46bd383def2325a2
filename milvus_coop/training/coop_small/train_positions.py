"""Train the region head and the position check on composite scenes."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.training.coop_small.positions import PositionCheck, Reading
from milvus_coop.training.coop_small.regions import RegionHead
from milvus_coop.training.coop_small.scene_set import SceneSet
from milvus_coop.training.losses import softmax_over_positives
from milvus_coop.training.optim import Descent
from milvus_coop.types import Array

logger = logging.getLogger(__name__)
_OTHER_GROUP = -1e4


@dataclass(frozen=True)
class PositionRecipe:
    """Numbers of this training."""

    reading_steps: int = 1500
    """Of learning to read captions alone: 10 ms each, and without it the next stage stays on a plateau."""
    reading_rate: float = 1e-2
    captions: int = 128
    """Captions of scenes per step of reading."""
    steps: int = 800
    groups: int = 10
    """Groups per step; all of their captions meet all of their pictures."""
    names: int = 32
    """Captions of single pictures per step, of which the network learns that they say nothing about places."""
    learning_rate: float = 3e-3
    warm_up: int = 30
    reading_weight: float = 1.0
    place_weight: float = 1.0


@dataclass(frozen=True)
class NameWords:
    """Captions of single pictures: `words` float16 (n, T, 64), `mask` bool (n, T)."""

    words: Array
    mask: Array


class Positions(nn.Module):
    """What finds and compares places: the head of the image side and the check of the cross-encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.check = RegionHead(), PositionCheck()


def train_positions(
    scenes: SceneSet, embeddings: Array, names: NameWords, scale: float, recipe: PositionRecipe, seed: int
) -> Positions:
    """Rank within groups and among all groups of a step, with the truth about words and places beside it.

    Args:
        scenes: of several parts; a step takes groups of one part, so that their embeddings can be compared.
        embeddings: unit (n, 384), from heads that never saw the scene's labels.
        names: see `NameWords`.
        scale: of the cosine in the pair's score.
        recipe: its numbers.
        seed: of everything random.
    """
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    model = Positions().train()
    _learn_to_read(model.check, scenes, names, recipe, dice)
    parameters: list[dict[str, object]] = [{"params": list(model.parameters()), "lr": recipe.learning_rate}]
    descent = Descent(parameters, steps=recipe.steps, warm_up=recipe.warm_up, weight_decay=0.02)
    groups_of_part = [[group for group in scenes.groups if scenes.part[group[0]] == part] for part in np.unique(scenes.part)]
    rows, regions = torch.from_numpy(embeddings), torch.from_numpy(scenes.rows[:, :16])
    losses: list[float] = []
    for _ in range(recipe.steps):
        groups = groups_of_part[dice.integers(len(groups_of_part))]
        chosen = [groups[index] for index in dice.choice(len(groups), min(recipe.groups, len(groups)), replace=False)]
        members = np.concatenate(chosen)
        number = np.repeat(np.arange(len(chosen)), [len(group) for group in chosen])
        words, mask = torch.from_numpy(scenes.words[members]).float(), torch.from_numpy(scenes.mask[members])
        keys = model.head(regions[members], torch.from_numpy(scenes.cells[members]).float())
        reading = model.check.read(words, mask)
        similarity = torch.einsum("csd,pnd->cpsn", reading.queries, keys)
        residual = model.check.compare(Reading(*(part[:, None] for part in reading)), similarity)
        cosines = torch.from_numpy(scenes.sentences[members]) @ rows[members].T
        loss = ranking_loss(scale * cosines + residual, torch.from_numpy(number[:, None] == number[None, :]))
        own = similarity.diagonal().permute(2, 0, 1)  # (B, 3, 16)
        some = dice.choice(len(names.words), recipe.names)
        loss = loss + recipe.reading_weight * (reading_loss(reading, mask, scenes, members) + _name_loss(model.check, names, some))
        loss = loss + recipe.place_weight * _place_loss(model.check, own, scenes, members)
        losses.append(descent.step(loss))
    if losses:
        logger.info("positions: loss %.3f -> %.3f", np.mean(losses[:10]), np.mean(losses[-10:]))
    return model.eval().requires_grad_(False)


def _learn_to_read(
    check: PositionCheck, scenes: SceneSet, names: NameWords, recipe: PositionRecipe, dice: np.random.Generator
) -> None:
    parameters: list[dict[str, object]] = [{"params": list(check.parameters()), "lr": recipe.reading_rate}]
    descent = Descent(parameters, steps=recipe.reading_steps, warm_up=recipe.warm_up, weight_decay=0.01)
    losses: list[float] = []
    for _ in range(recipe.reading_steps):
        members = dice.choice(len(scenes), min(recipe.captions, len(scenes)), replace=False)
        mask = torch.from_numpy(scenes.mask[members])
        words = torch.from_numpy(scenes.words[members]).float()
        loss = reading_loss(check.read(words, mask), mask, scenes, members)
        some = dice.choice(len(names.words), recipe.names)
        losses.append(descent.step(loss + _name_loss(check, names, some)))
    if losses:
        logger.info("reading: loss %.3f -> %.3f", np.mean(losses[:10]), np.mean(losses[-10:]))


def ranking_loss(scores: Tensor, same_group: Tensor) -> Tensor:
    """Listwise both ways among all (B, B), and among the members of each group."""
    own = torch.eye(len(scores), dtype=torch.bool)
    within = scores.masked_fill(~same_group, _OTHER_GROUP)
    parts = [softmax_over_positives(table, own) for table in (scores, scores.T, within, within.T)]
    return torch.stack(parts).mean()


def reading_loss(reading: Reading, mask: Tensor, scenes: SceneSet, members: Array) -> Tensor:
    """How far the reading of captions is from the truth."""
    starts, nouns, exists, direction, size, number = (
        torch.from_numpy(getattr(scenes.truth, name)[members])
        for name in ("starts", "nouns", "exists", "direction", "size", "number")
    )
    present = mask.float()
    begins = functional.binary_cross_entropy_with_logits(reading.starts, starts, reduction="none")
    named = (reading.nouns.masked_fill(nouns == 0, -1e4).logsumexp(-1) * exists).sum(1)
    return (
        (begins * present).sum(1).mean()
        - named.clamp(min=-30.0).mean()
        + ((reading.direction - direction) ** 2).sum((1, 2)).mean()
        + ((reading.size - size) ** 2).sum(1).mean()
        + ((reading.number - number) ** 2).sum((1, 2)).mean()
    )


def _name_loss(check: PositionCheck, names: NameWords, some: Array) -> Tensor:
    """Names have one part, and say nothing about places, sizes and numbers."""
    mask = torch.from_numpy(names.mask[some])
    reading = check.read(torch.from_numpy(names.words[some]).float(), mask)
    begins = functional.softplus(reading.starts) * mask.float()
    return begins.sum(1).mean() + (reading.number**2).sum((1, 2)).mean() + (reading.direction[:, 0] ** 2).sum(1).mean()


def _place_loss(check: PositionCheck, similarity: Tensor, scenes: SceneSet, members: Array) -> Tensor:
    """Cross-entropy of where the nouns are looked at, against their boxes."""
    places = torch.from_numpy(scenes.places[members])
    attention = (check.sharpness.exp() * similarity).log_softmax(-1)
    parts = torch.from_numpy(scenes.truth.exists[members])
    return -((places * attention).sum(-1) * parts).sum() / parts.sum()
