"""Train the picture side of the bi-encoder on cached features: heads that are cross-fitted, then averaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.scene_set import SceneSet
from milvus_coop.training.coop_small.split import part_of
from milvus_coop.training.coop_small.towers import ImageHead, embed, merged_heads
from milvus_coop.training.losses import info_nce
from milvus_coop.training.optim import Descent
from milvus_coop.types import Array

logger = logging.getLogger(__name__)
_MAX_SCALE = 100.0


@dataclass(frozen=True)
class EmbeddingRecipe:
    """Numbers of this training; chosen on the training stamps and on left-out styles (see the model card)."""

    parts: int = 4
    """Heads; each is trained without the captions of its part."""
    epochs: int = 12
    batch: int = 512
    learning_rate: float = 1e-3
    hidden: int = 512
    dropout: float = 0.3
    variant_share: float = 0.5
    """How often a picture goes with a tag, keyword or synonym in place of its caption."""
    source_weights: Mapping[str, float] = field(default_factory=lambda: {"stamps": 5.0, "clipart": 1.7})
    """How often a source's pictures are drawn, relative to 1 for the icons."""
    scene_batch: int = 256
    scene_weight: float = 0.3
    """Of the loss over composite scenes. 0.3 changes nothing for single pictures; scenes are found two to three times as often."""


@dataclass(frozen=True)
class Fitted:
    """Trained heads and what they say of the pictures they were trained on.

    `head`: the heads' mean. `unseen`, `unseen_scenes`: cross-fitted embeddings, unit float32 (n, 384): each from a head that never
    saw the picture's caption (a scene's labels), as for a picture of a user.
    """

    head: ImageHead
    unseen: Array
    unseen_scenes: Array


def train_embedding(dataset: Dataset, recipe: EmbeddingRecipe, seed: int, scenes: SceneSet | None = None) -> Fitted:
    """Train the heads on pictures of one thing, and on scenes beside them."""
    part = np.array([part_of(record.caption, recipe.parts) for record in dataset.records])
    vectors = torch.zeros(len(dataset), dataset.tags.shape[1])
    scene_vectors = torch.zeros(0 if scenes is None else len(scenes), dataset.tags.shape[1])
    heads = []
    for number in range(recipe.parts):
        others = None if scenes is None else scenes.select(np.flatnonzero(scenes.part != number))
        head = train_head(dataset.select(np.flatnonzero(part != number)), recipe, seed + number, others)
        unseen = np.flatnonzero(part == number)
        vectors[unseen] = head(torch.from_numpy(dataset.pooled[unseen]))
        if scenes is not None:
            own = np.flatnonzero(scenes.part == number)
            scene_vectors[own] = head(torch.from_numpy(scenes.pooled[own]))
        heads.append(head)
    scene_tags = np.zeros(scene_vectors.shape, np.float32) if scenes is None else scenes.tags
    return Fitted(
        merged_heads(heads),
        embed(vectors, torch.from_numpy(dataset.tags)).numpy(),
        embed(scene_vectors, torch.from_numpy(scene_tags)).numpy(),
    )


def embeddings(head: ImageHead, dataset: Dataset | SceneSet) -> Array:
    """Image embeddings of all pictures, unit float32 (n, 384)."""
    with torch.no_grad():
        return embed(head(torch.from_numpy(dataset.pooled)), torch.from_numpy(dataset.tags)).numpy()


def train_head(dataset: Dataset, recipe: EmbeddingRecipe, seed: int, scenes: SceneSet | None = None) -> ImageHead:
    """One head, trained as what must be added to the tag vector; contrastive against captions and their variants.

    Scenes come in batches of their own, so that as many pictures of one thing are seen as without them.
    """
    torch.manual_seed(seed)
    head = ImageHead(hidden=recipe.hidden, dropout=recipe.dropout).train()
    log_scale, scene_log_scale = (torch.nn.Parameter(torch.tensor(3.0)) for _ in range(2))
    steps = max(1, recipe.epochs * len(dataset) // recipe.batch)
    parameters = [{"params": [*head.parameters(), log_scale, scene_log_scale], "lr": recipe.learning_rate}]
    descent = Descent(parameters, steps=steps, warm_up=steps // 4)
    pooled, tags = torch.from_numpy(dataset.pooled), torch.from_numpy(dataset.tags)
    dice = np.random.default_rng(seed)
    value = 0.0
    for batch, captions, same in _batches(dataset, recipe, steps, np.random.default_rng(seed)):
        pictures = functional.normalize(head(pooled[batch]) + tags[batch], dim=-1)
        loss = info_nce(log_scale.exp().clamp(max=_MAX_SCALE) * pictures @ captions.T, same)
        if scenes is not None:
            loss = loss + recipe.scene_weight * _scene_loss(head, scene_log_scale.exp().clamp(max=_MAX_SCALE), scenes, recipe, dice)
        value = descent.step(loss)
    logger.info("head: %d pictures, %d steps, last loss %.3f", len(dataset), steps, value)
    return head.eval().requires_grad_(False)


def _scene_loss(head: ImageHead, scale: Tensor, scenes: SceneSet, recipe: EmbeddingRecipe, dice: np.random.Generator) -> Tensor:
    """Contrastive over one scene of each of many groups."""
    groups = scenes.groups
    chosen = dice.choice(len(groups), min(recipe.scene_batch, len(groups)), replace=False)
    batch = np.array([dice.choice(groups[index]) for index in chosen])
    vectors = head(torch.from_numpy(scenes.pooled[batch])) + torch.from_numpy(scenes.tags[batch])
    captions = torch.from_numpy(scenes.sentences[batch])
    names = np.array([scenes.captions[index] for index in batch])
    same = torch.from_numpy(names[:, None] == names[None, :])
    return info_nce(scale * functional.normalize(vectors, dim=-1) @ captions.T, same)


def plain_embeddings(head: ImageHead, dataset: Dataset) -> Array:
    """Head plus tag vector, without a blend: unit float32 (n, 384)."""
    with torch.no_grad():
        vectors = head(torch.from_numpy(dataset.pooled)) + torch.from_numpy(dataset.tags)
        return functional.normalize(vectors, dim=-1).numpy()


def _batches(
    dataset: Dataset, recipe: EmbeddingRecipe, steps: int, dice: np.random.Generator
) -> Iterator[tuple[Array, Tensor, Tensor]]:
    """`steps` times: positions of pictures (b,), their texts' vectors (b, 384), and which of them mean the same (b, b)."""
    weights = np.array([recipe.source_weights.get(source, 1.0) for source in dataset.sources])
    sentences = torch.from_numpy(dataset.texts.sentences)
    text_rows = [dataset.texts.rows(record.texts) for record in dataset.records]
    size = min(recipe.batch, len(dataset))
    for _ in range(steps):
        batch = dice.choice(len(dataset), size, replace=False, p=weights / weights.sum())
        rows = np.array([_pick_text(text_rows[index], recipe.variant_share, dice) for index in batch])
        labels = dataset.labels[batch]
        same = (labels[:, None] == labels[None, :]) | (rows[:, None] == rows[None, :])
        yield batch, sentences[rows], torch.from_numpy(same)


def _pick_text(rows: Array, variant_share: float, dice: np.random.Generator) -> int:
    """The caption's row, or now and then that of a weaker text."""
    if len(rows) > 1 and dice.random() < variant_share:
        return int(rows[dice.integers(1, len(rows))])
    return int(rows[0])
