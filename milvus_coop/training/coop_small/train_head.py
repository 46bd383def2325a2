"""Train the image head on cached features: contrastive, against captions and their variants."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from milvus_coop.training.coop_small.dataset import Dataset
from milvus_coop.training.coop_small.towers import ImageHead
from milvus_coop.training.losses import info_nce
from milvus_coop.types import Array

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadRecipe:
    """Numbers of the head's training; all were chosen on the training stamps and on left-out styles."""

    epochs: int = 20
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    hidden: int = 1024
    dropout: float = 0.3
    variant_share: float = 0.5
    """How often a picture goes with a tag, keyword or synonym in place of its caption."""
    restyled_share: float = 0.5
    """How often a picture is shown in a restyled view, where there are any."""


def train_head(dataset: Dataset, tag_vectors: Tensor, recipe: HeadRecipe, seed: int) -> ImageHead:
    """Train on all pictures of `dataset`; `tag_vectors` float32 (n, 384) belong to them."""
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    head = ImageHead(hidden=recipe.hidden, dropout=recipe.dropout).train()
    log_scale = torch.nn.Parameter(torch.tensor(3.0))
    steps = max(1, recipe.epochs * len(dataset) // recipe.batch)
    optimiser = torch.optim.AdamW([*head.parameters(), log_scale], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
    sentences = torch.from_numpy(dataset.texts.sentences)
    text_rows = [dataset.texts.rows(record.texts) for record in dataset.records]
    loss = torch.zeros(())
    for _ in range(steps):
        batch = dice.choice(len(dataset), min(recipe.batch, len(dataset)), replace=False)
        rows = np.array([_pick_text(text_rows[index], recipe.variant_share, dice) for index in batch])
        pooled = torch.from_numpy(_pick_view(dataset, batch, recipe.restyled_share, dice))
        images = head(pooled, tag_vectors[batch])
        logits = log_scale.exp().clamp(max=100.0) * images @ sentences[rows].T
        labels = dataset.labels[batch]
        same = (labels[:, None] == labels[None, :]) | (rows[:, None] == rows[None, :])
        loss = info_nce(logits, torch.from_numpy(same))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    logger.info("head: %d steps, last loss %.3f, tag weight %.2f", steps, loss.item(), head.tag_weight.item())
    return head.eval().requires_grad_(False)


def cross_fitted_embeddings(dataset: Dataset, tag_vectors: Tensor, recipe: HeadRecipe, parts: int, seed: int) -> Array:
    """Embeddings of all pictures, each from a head that never saw the picture's caption. Unit float32 (n, 384)."""
    part_of_label = np.random.default_rng(seed).integers(0, parts, int(dataset.labels.max()) + 1)
    part = part_of_label[dataset.labels]
    result = np.zeros((len(dataset), tag_vectors.shape[1]), np.float32)
    for number in range(parts):
        seen, unseen = np.flatnonzero(part != number), np.flatnonzero(part == number)
        head = train_head(dataset.select(seen), tag_vectors[seen], recipe, seed + number)
        result[unseen] = head(torch.from_numpy(dataset.pooled[unseen]), tag_vectors[unseen]).numpy()
    return result


def _pick_text(rows: Array, variant_share: float, dice: np.random.Generator) -> int:
    """The caption's row, or now and then that of a weaker text."""
    if len(rows) > 1 and dice.random() < variant_share:
        return int(rows[dice.integers(1, len(rows))])
    return int(rows[0])


def _pick_view(dataset: Dataset, batch: Array, restyled_share: float, dice: np.random.Generator) -> Array:
    """Pooled features (batch, 1280) float32 of the canonical view, or now and then of a restyled one."""
    pooled = dataset.pooled[batch]
    views = dataset.extra.shape[1]
    if views:
        chosen = np.flatnonzero(dice.random(len(batch)) < restyled_share)
        pooled[chosen] = dataset.extra[batch[chosen], dice.integers(0, views, len(chosen))]
    return pooled
