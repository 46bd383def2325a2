"""Train the cross-encoder on clusters of captions and pictures that the bi-encoder confuses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from milvus_coop.tokens import quantise
from milvus_coop.training.coop_small.cross_encoder import MEMBERS, CrossEncoder, agreement
from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.layout import EMBEDDING, EMBEDDING_ROWS, KEY_ROWS, KEYS, REGIONS, TAGS, TOKEN_DIM, TOKENS
from milvus_coop.training.losses import softmax_over_positives
from milvus_coop.training.optim import Descent
from milvus_coop.types import Array

logger = logging.getLogger(__name__)
CANDIDATES = 20
"""How many candidates of a query the probabilities are calibrated on: what Coop search rescores."""
POOL_SHARES = (1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25)
"""Of the stamps: collections that the probabilities are calibrated in, all sizes with about the same number of pairs."""
_OFFSET_RATE = 0.05
_NEWTON_STEPS = 30
_CHUNK = 2048


@dataclass(frozen=True)
class CrossRecipe:
    """Numbers of the cross-encoder's training."""

    steps: int = 250
    clusters: int = 8
    cluster: int = 16
    hard: int = 11
    neighbours: int = 24
    learning_rate: float = 3e-3
    warm_up: int = 30
    bce_weight: float = 0.5
    source_weights: Mapping[str, float] = field(default_factory=lambda: {"stamps": 40.0, "clipart": 5.0})
    """How often a source's pictures start a cluster, relative to 1 for the icons."""


@dataclass(frozen=True)
class PairSource:
    """Pictures and captions to pair: `tokens` as stored and restored, float32 (n, 38, 64); one caption per picture."""

    dataset: Dataset
    tokens: Array

    def features(self, pictures: Array, captions: Array, basis: Tensor) -> Tensor:
        """Agreement of picture i with the caption of picture `captions[i]`, both positions (n,): (n, F)."""
        return agreement(*self.pairs(pictures, captions, basis), basis)

    def pairs(self, pictures: Array, captions: Array, basis: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sentences, words, masks and image tokens of the pairs, as `agreement` takes them."""
        texts = self.dataset.texts
        unique, place = np.unique(self.dataset.caption_rows[captions], return_inverse=True)
        mask = texts.mask[unique]
        length = int(mask.sum(1).max())
        words = torch.from_numpy(texts.tokens[unique, :length].astype(np.float32)) @ basis
        return (
            torch.from_numpy(texts.sentences[unique])[place],
            words[place],
            torch.from_numpy(mask[:, :length]).long()[place],
            torch.from_numpy(self.tokens[pictures]),
        )

    def grid(self, members: Array, basis: Tensor) -> Tensor:
        """Agreement of every member's caption with every member's picture: (captions, pictures, F)."""
        captions, pictures = np.indices((len(members), len(members))).reshape(2, -1)
        flat = self.features(members[pictures], members[captions], basis)
        return flat.reshape(len(members), len(members), -1)


def stored_tokens(embeddings: Array, rows: Array, keys: Array | None = None) -> Array:
    """Image tokens (n, 38, 64) as stored and restored, of embeddings (n, 384), the tagger's rows (n, 24, 64), keys (n, 16, 32).

    Without keys their rows are zero.
    """
    tokens = np.zeros((len(rows), TOKENS, TOKEN_DIM), np.float32)
    tokens[:, EMBEDDING] = embeddings.reshape(len(rows), EMBEDDING_ROWS, -1)
    tokens[:, REGIONS.start : TAGS.stop] = rows
    if keys is not None:
        tokens[:, KEYS] = keys.reshape(len(rows), KEY_ROWS, -1)
    values, scales = quantise(tokens)
    return values.astype(np.float32) * scales.astype(np.float32)[..., None]


def train_cross_encoder(source: PairSource, basis: Tensor, recipe: CrossRecipe, seed: int) -> CrossEncoder:
    """Listwise loss in both directions and binary cross-entropy over clusters of `recipe.cluster` pictures."""
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    model = CrossEncoder(basis).train()
    neighbours = _neighbours(source, recipe.neighbours)
    _standardise(model, source, recipe, neighbours, dice)
    offset = torch.nn.Parameter(torch.tensor(-8.0))
    parameters = [
        {"params": list(model.parameters()), "lr": recipe.learning_rate},
        {"params": [offset], "lr": _OFFSET_RATE},
    ]
    descent = Descent(parameters, steps=recipe.steps, warm_up=recipe.warm_up, weight_decay=0.01)
    losses: list[float] = []
    for _ in range(recipe.steps):
        loss = torch.zeros(())
        for members in _clusters(source, recipe, neighbours, dice):
            features = source.grid(members, basis)
            labels = torch.from_numpy(source.dataset.labels[members])
            match = labels[:, None] == labels[None, :]
            for residual in model.residuals(features):
                loss = loss + pair_loss(model.scale * features[..., 0] + residual, match, offset, recipe.bce_weight) / MEMBERS
        losses.append(descent.step(loss / recipe.clusters))
    logger.info("cross-encoder: loss %.3f -> %.3f", np.mean(losses[:10]), np.mean(losses[-10:]))
    return model.eval().requires_grad_(False)


def pair_loss(scores: Tensor, match: Tensor, offset: Tensor, bce_weight: float) -> Tensor:
    """Scores and bool matches, both (captions, pictures): listwise both ways, plus weighted cross-entropy per pair."""
    listwise = (softmax_over_positives(scores, match) + softmax_over_positives(scores.T, match.T)) / 2
    return listwise + bce_weight * functional.binary_cross_entropy_with_logits(scores + offset, match.float())


def calibrate(model: CrossEncoder, source: PairSource) -> None:
    """Platt 1999: probability = sigmoid(a * score + b), fitted on the stamps' pairs that Coop search would rescore.

    In a small collection more of the candidates match, so pairs come from collections of several sizes.
    """
    stamps = source.dataset.where(lambda record: record.source == "stamps")
    dice = np.random.default_rng(0)
    scores, matches = list[Array](), list[Array]()
    for share in POOL_SHARES:
        chosen = np.sort(dice.permutation(stamps)[: max(1, round(share * len(stamps)))])
        pool = PairSource(source.dataset.select(chosen), source.tokens[chosen])
        pictures = _neighbours(pool, CANDIDATES)[:, :CANDIDATES].ravel()
        captions = np.repeat(np.arange(len(chosen)), CANDIDATES)
        scores.append(score_pairs(model, pool, pictures, captions))
        matches.append(pool.dataset.labels[pictures] == pool.dataset.labels[captions])
    line = fit_line(np.concatenate(scores), np.concatenate(matches).astype(np.float32))
    model.calibration.copy_(torch.tensor(line))


def fit_line(scores: Array, match: Array) -> tuple[float, float]:
    """Slope and offset of the logistic regression of `match` (0 or 1) on `scores`, by Newton's method."""
    design = np.stack([scores, np.ones_like(scores)], axis=1).astype(np.float64)
    mean = float(np.clip(match.mean(), 1e-6, 1 - 1e-6))
    line = np.array([0.0, np.log(mean / (1 - mean))])
    for _ in range(_NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-design @ line))
        gradient = design.T @ (match - probability)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + 1e-6 * np.eye(2)
        line = line + np.linalg.solve(curvature, gradient)
    return float(line[0]), float(line[1])


def score_pairs(model: CrossEncoder, source: PairSource, pictures: Array, captions: Array) -> Array:
    """Scores before calibration of pairs of positions (n,): (n,)."""
    with torch.no_grad():
        parts = [
            model.pair_score(*source.pairs(pictures[i : i + _CHUNK], captions[i : i + _CHUNK], model.basis))
            for i in range(0, len(pictures), _CHUNK)
        ]
    return torch.cat(parts).numpy()


def _neighbours(source: PairSource, count: int) -> Array:
    """Per picture, what the bi-encoder puts first: (n, 2 * count), `count` for its caption and `count` whose captions fit it.

    Of the same source only: elsewhere stand pictures that the caption fits although they are called something else.
    """
    dataset = source.dataset
    vectors = source.tokens[:, EMBEDDING].reshape(len(dataset), -1)
    result = np.zeros((len(dataset), 2 * count), np.int64)
    for name in np.unique(dataset.sources):
        members = np.flatnonzero(dataset.sources == name)
        scores = dataset.texts.sentences[dataset.caption_rows[members]] @ vectors[members].T
        for part, table in enumerate((scores, scores.T)):
            best = np.argsort(-table, axis=1)[:, :count]
            columns = slice(part * count, (part + 1) * count)
            result[members, columns] = members[np.resize(best.T, (count, len(members))).T]
    return result


def _clusters(source: PairSource, recipe: CrossRecipe, neighbours: Array, dice: np.random.Generator) -> Sequence[Array]:
    """Positions of each cluster: a seed, pictures that its caption finds, and random others."""
    clusters = []
    names = source.dataset.sources
    weights = np.array([recipe.source_weights.get(name, 1.0) for name in names])
    for seed in dice.choice(len(names), recipe.clusters, p=weights / weights.sum()):
        hard = dice.permutation(neighbours[seed])[: recipe.hard]
        others = dice.choice(np.flatnonzero(names == names[seed]), recipe.cluster)
        clusters.append(np.array(list(dict.fromkeys([int(seed), *hard.tolist(), *others.tolist()]))[: recipe.cluster]))
    return clusters


def _standardise(
    model: CrossEncoder, source: PairSource, recipe: CrossRecipe, neighbours: Array, dice: np.random.Generator
) -> None:
    """Set the input statistics from a few clusters."""
    sample = torch.cat(
        [
            source.grid(members, model.basis).flatten(0, 1)
            for _ in range(4)
            for members in _clusters(source, recipe, neighbours, dice)
        ]
    )
    model.mean.copy_(sample.mean(0))
    model.deviation.copy_(sample.std(0).clamp(min=1e-3))
