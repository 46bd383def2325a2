"""Training of the student: its vector of a foreign text shall be the teacher's of the English one (Reimers & Gurevych 2020)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from milvus_coop.training.coop_small_multilingual.student import Student
from milvus_coop.training.losses import softmax_over_positives
from milvus_coop.types import Array

logger = logging.getLogger(__name__)
_REPORT_EVERY = 200
_RIDGE = 1e-3  # of the mean square of a coordinate


@dataclass(frozen=True)
class Recipe:
    """Sizes and rates; chosen on the dev captions."""

    vocabulary: int = 48_000
    width: int = 256
    hidden: int = 1024
    steps: int = 1600
    batch: int = 1024
    lr: float = 2e-3
    piece_lr: float = 5e-3
    warm_up: int = 100
    scale: float = 20.0
    """Of the cosines in the contrastive loss."""
    dropped: float = 0.1
    """Share of word pieces left out of a text (word dropout of Iyyer et al. 2015)."""
    seed: int = 1
    shares: dict[str, float] = field(
        default_factory=lambda: {"stamps": 0.2, "names": 0.2, "keywords": 0.15, "dictionary": 0.3, "english": 0.15}
    )
    """Of each source in a batch."""


@dataclass(frozen=True)
class Corpus:
    """Texts as piece ids, where each came from, and the row of its target.

    `ids` int64 (total,) holds all texts one after the other, `starts` int64 (n + 1,) where each begins.
    """

    ids: Array
    starts: Array
    sources: Array
    targets: Array

    @classmethod
    def of(cls, pieces: Sequence[Sequence[int]], sources: Sequence[str], targets: Array) -> Corpus:
        """From lists of ids."""
        lengths = np.array([len(row) for row in pieces], dtype=np.int64)
        return cls(
            np.fromiter((piece for row in pieces for piece in row), np.int64, int(lengths.sum())),
            np.concatenate([[0], lengths.cumsum()]).astype(np.int64),
            np.array(sources),
            targets,
        )

    def take(self, rows: Array) -> tuple[Array, Array]:
        """Ids and offsets of some texts."""
        begins, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        offsets = np.concatenate([[0], lengths.cumsum()[:-1]])
        return self.ids[np.repeat(begins - offsets, lengths) + np.arange(lengths.sum())], offsets


def train_student(corpus: Corpus, sentences: Array, recipe: Recipe, token_dim: int) -> Student:
    """Distil; 13 minutes for 1,600 steps on one busy core.

    Args:
        corpus: what to train on.
        sentences: the teacher's vectors, unit (targets, dim); `corpus.targets` points into them.
        recipe: how.
        token_dim: width of a text token; see `fit_word_basis`.
    """
    torch.manual_seed(recipe.seed)
    student = Student(recipe.vocabulary, dim=sentences.shape[1], token_dim=token_dim, width=recipe.width, hidden=recipe.hidden)
    pieces = [student.pieces.weight, student.weights.weight]
    others = [value for name, value in student.named_parameters() if not name.startswith(("pieces.", "weights."))]
    optimisers = [torch.optim.SparseAdam(pieces, lr=recipe.piece_lr), torch.optim.AdamW(others, lr=recipe.lr)]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, _curve(recipe)) for optimiser in optimisers]
    everything = torch.from_numpy(sentences)
    losses: list[float] = []
    begin = time.monotonic()
    for step, rows in enumerate(_batches(corpus, recipe), start=1):
        ids, offsets = drop_pieces(*corpus.take(rows), recipe.dropped, recipe.seed + step)
        targets = torch.from_numpy(corpus.targets[rows])
        found = student.embed_flat(torch.from_numpy(ids), torch.from_numpy(offsets))
        loss = distil_loss(found, everything[targets], targets, recipe.scale)
        for optimiser in optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(loss)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        losses.append(loss.item())
        if step % _REPORT_EVERY == 0:
            speed = step * recipe.batch / (time.monotonic() - begin)
            logger.info("step %d: loss %.3f, %.0f texts/s", step, float(np.mean(losses[-_REPORT_EVERY:])), speed)
    return student.eval().requires_grad_(False)


def distil_loss(found: Tensor, wanted: Tensor, meanings: Tensor, scale: float) -> Tensor:
    """Cosine distance to the teacher's vector, and InfoNCE against the other vectors of the batch.

    Args:
        found: unit (n, dim).
        wanted: unit (n, dim).
        meanings: int64 (n,); equal where the English is.
        scale: of the cosines.
    """
    distance = 1.0 - (found * wanted).sum(1).mean()
    same = meanings[:, None] == meanings[None, :]
    return distance + softmax_over_positives(scale * found @ wanted.T, same)


def drop_pieces(ids: Array, offsets: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Leave out a random share of the pieces, never the first of a text."""
    keep = np.random.default_rng(seed).random(len(ids)) >= share
    keep[offsets] = True
    return ids[keep], np.concatenate([[0], keep.cumsum()])[offsets]


def fit_word_basis(sentences: Array, words: Array) -> Array:
    """The matrix (dim, token_dim) that turns the teacher's sentence vectors into the means of its text tokens.

    By least squares with a small ridge: a direction that no sentence points to would get entries without limit.
    """
    left, right = sentences.astype(np.float64), words.astype(np.float64)
    ridge = _RIDGE * len(left) / left.shape[1] * np.eye(left.shape[1])
    solution: Array = np.linalg.solve(left.T @ left + ridge, left.T @ right)
    return solution.astype(np.float32)


def embed_texts(student: Student, corpus: Corpus, rows: Array, batch: int = 1024) -> Array:
    """Vectors of some texts, unit (n, dim)."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            ids, offsets = corpus.take(rows[start : start + batch])
            parts.append(student.embed_flat(torch.from_numpy(ids), torch.from_numpy(offsets)).numpy())
    return np.concatenate(parts)


def _curve(recipe: Recipe) -> Callable[[int], float]:
    def factor(step: int) -> float:
        return min((step + 1) / recipe.warm_up, 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.steps))))

    return factor


def _batches(corpus: Corpus, recipe: Recipe) -> Iterator[Array]:
    """Rows of each batch: every source with its share, its texts in a new random order each time all were seen."""
    dice = np.random.default_rng(recipe.seed)
    present = {source: np.flatnonzero(corpus.sources == source) for source in recipe.shares}
    queues = {source: np.empty(0, np.int64) for source in recipe.shares}
    for _ in range(recipe.steps):
        parts = []
        for source, share in recipe.shares.items():
            count = round(share * recipe.batch) if len(present[source]) else 0
            while len(queues[source]) < count:
                queues[source] = np.concatenate([queues[source], dice.permutation(present[source])])
            parts.append(queues[source][:count])
            queues[source] = queues[source][count:]
        yield np.concatenate(parts)
