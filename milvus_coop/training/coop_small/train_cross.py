"""Train the cross-encoder on clusters of captions and pictures that the bi-encoder confuses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from milvus_coop.tokens import quantise
from milvus_coop.training.coop_small.cross_encoder import CrossEncoder, agreement
from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.layout import EMBEDDING, EMBEDDING_ROWS
from milvus_coop.training.losses import softmax_over_positives
from milvus_coop.types import Array

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossRecipe:
    """Numbers of the cross-encoder's training."""

    steps: int = 200
    clusters: int = 8
    cluster: int = 16
    hard: int = 11
    neighbours: int = 24
    learning_rate: float = 1e-3
    warm_up: int = 30
    bce_weight: float = 0.5
    seeds: int = 1


@dataclass(frozen=True)
class PairSource:
    """Pictures and captions to pair: `tokens` as stored and restored, float32 (n, 30, 64); one caption per picture."""

    dataset: Dataset
    tokens: Array

    def features(self, pictures: Array, captions: Array, basis: Tensor) -> Tensor:
        """Agreement of every given picture with every given caption (positions): (captions, pictures, F)."""
        texts, rows = self.dataset.texts, self.dataset.caption_rows[captions]
        grid = np.indices((len(captions), len(pictures))).reshape(2, -1)
        sentence = torch.from_numpy(texts.sentences[rows])[grid[0]]
        mask = torch.from_numpy(texts.mask[rows])
        length = int(mask.sum(1).max())
        words = torch.from_numpy(texts.tokens[rows][:, :length].astype(np.float32)) @ basis
        picture_rows = torch.from_numpy(self.tokens[pictures])[grid[1]]
        flat = agreement(sentence, words[grid[0]], mask[:, :length].long()[grid[0]], picture_rows, basis)
        return flat.unflatten(0, (len(captions), len(pictures)))


def stored_tokens(tokens: Array, embeddings: Array) -> Array:
    """Put `embeddings` (n, 384) into the tokens' first rows, then round everything as the store does. (n, 30, 64)"""
    mixed = tokens.copy()
    mixed[:, EMBEDDING] = embeddings.reshape(len(tokens), EMBEDDING_ROWS, -1)
    values, scales = quantise(mixed)
    return values.astype(np.float32) * scales.astype(np.float32)[..., None]


def train_cross_encoder(source: PairSource, basis: Tensor, recipe: CrossRecipe, seed: int) -> CrossEncoder:
    """Listwise loss in both directions and binary cross-entropy over clusters of `recipe.cluster` pictures."""
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    model = CrossEncoder(basis).train()
    neighbours = _neighbours(source, recipe.neighbours)
    _standardise(model, source, recipe, neighbours, dice)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / recipe.warm_up, 0.5 * (1 + np.cos(np.pi * step / recipe.steps))),
    )
    offset = torch.nn.Parameter(torch.tensor(-8.0))
    optimiser.add_param_group({"params": [offset], "lr": 0.05})
    schedule.base_lrs.append(0.05)
    schedule.lr_lambdas.append(schedule.lr_lambdas[0])
    losses: list[float] = []
    for _ in range(recipe.steps):
        loss = torch.zeros(())
        for members in _clusters(source, recipe, neighbours, dice):
            scores = model.score(source.features(members, members, basis))
            labels = torch.from_numpy(source.dataset.labels[members])
            loss = loss + pair_loss(scores, labels[:, None] == labels[None, :], offset, recipe.bce_weight)
        optimiser.zero_grad()
        (loss / recipe.clusters).backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item() / recipe.clusters)
    logger.info("cross-encoder: loss %.3f -> %.3f", np.mean(losses[:10]), np.mean(losses[-10:]))
    return model.eval().requires_grad_(False)


def pair_loss(scores: Tensor, match: Tensor, offset: Tensor, bce_weight: float) -> Tensor:
    """Scores and bool matches, both (captions, pictures): listwise both ways, plus weighted cross-entropy per pair."""
    listwise = (softmax_over_positives(scores, match) + softmax_over_positives(scores.T, match.T)) / 2
    return listwise + bce_weight * functional.binary_cross_entropy_with_logits(scores + offset, match.float())


def calibrate(model: CrossEncoder, scores: Array, match: Array) -> None:
    """Platt 1999: fit probability = sigmoid(a * score + b) on pairs that the model was not trained on."""
    score = torch.from_numpy(scores.astype(np.float32)).flatten()
    target = torch.from_numpy(match.astype(np.float32)).flatten()
    line = torch.tensor([1.0, -float(score.mean())], requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(line[0] * score + line[1], target)
        loss.backward()
        return loss

    optimiser.step(closure)
    model.calibration.copy_(line.detach())


def score_matrix(model: CrossEncoder, source: PairSource, captions: Array, basis: Tensor) -> Array:
    """Scores before calibration of the given captions (positions) against all pictures: (captions, n)."""
    everything = np.arange(len(source.dataset))
    with torch.no_grad():
        parts = [
            model.score(source.features(everything, captions[start : start + 8], basis)) for start in range(0, len(captions), 8)
        ]
    return torch.cat(parts).numpy()


def _neighbours(source: PairSource, count: int) -> Array:
    """Per picture's caption, the pictures that the bi-encoder puts first: (n, count)."""
    dataset = source.dataset
    vectors = source.tokens[:, EMBEDDING].reshape(len(dataset), -1)
    scores = dataset.texts.sentences[dataset.caption_rows] @ vectors.T
    return np.argsort(-scores, axis=1)[:, :count]


def _clusters(source: PairSource, recipe: CrossRecipe, neighbours: Array, dice: np.random.Generator) -> Sequence[Array]:
    """Positions of each cluster: a seed, pictures that its caption finds, and random others."""
    clusters = []
    for seed in dice.integers(0, len(source.dataset), recipe.clusters):
        hard = dice.permutation(neighbours[seed])[: recipe.hard]
        others = dice.integers(0, len(source.dataset), recipe.cluster)
        clusters.append(np.array(list(dict.fromkeys([int(seed), *hard.tolist(), *others.tolist()]))[: recipe.cluster]))
    return clusters


def _standardise(
    model: CrossEncoder, source: PairSource, recipe: CrossRecipe, neighbours: Array, dice: np.random.Generator
) -> None:
    """Set the input statistics from a few clusters."""
    sample = torch.cat(
        [
            source.features(members, members, model.basis).flatten(0, 1)
            for _ in range(4)
            for members in _clusters(source, recipe, neighbours, dice)
        ]
    )
    model.mean.copy_(sample.mean(0))
    model.deviation.copy_(sample.std(0).clamp(min=1e-3))
