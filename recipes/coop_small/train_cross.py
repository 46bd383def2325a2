"""Train the cross-encoder on the bi-encoder's own lists of images and texts that neither has seen in training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from milvus_coop.models.tokens import quantise
from milvus_coop.types import Array
from recipes.coop_small.cross_encoder import WORD_FEATURES, CrossEncoder, compare

logger = logging.getLogger(__name__)
FOLDS = 4
_EXCLUDED = -1e9


@dataclass(frozen=True)
class CrossRecipe:
    """Every number of the training; chosen by cross-validation on dev."""

    depth: int = 30
    """Candidates in a list."""
    lists: int = 24
    """Number of lists of the first pool in a step, for each direction. Every other pool has a third as many."""
    steps: int = 400
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    pair_weight: float = 0.1
    """Weight of the binary cross-entropy of single pairs beside the loss of lists."""
    seed: int = 1


@dataclass(frozen=True)
class CrossPool:
    """Texts and images that were searched together.

    `text` unit (n, 772), `words` (n, T, 96), `present` (n, T); `rows` dequantised image tokens (m, 25, 96);
    `right` bool (n, m): which image a text describes.
    """

    text: Tensor
    words: Tensor
    present: Tensor
    rows: Tensor
    right: Tensor

    def scores(self) -> Tensor:
        """The bi-encoder's cosines with the stored embeddings (n, m)."""
        flat = self.rows.flatten(1)[:, : self.text.shape[1]]
        return self.text @ flat.T

    def take(self, images: Array) -> CrossPool:
        """The images with these numbers and the texts that describe one of them."""
        right = self.right[:, torch.from_numpy(images)]
        texts = right.any(1)
        return CrossPool(
            self.text[texts], self.words[texts], self.present[texts], self.rows[torch.from_numpy(images)], right[texts]
        )


def stored(tokens: Tensor) -> Tensor:
    """Image tokens as a collection gives them back."""
    values, scales = quantise(tokens.numpy())
    return torch.from_numpy(values.astype(np.float32) * scales.astype(np.float32)[..., None])


@dataclass(frozen=True)
class Lists:
    """The bi-encoder's candidates of many queries: pairs (queries, depth) of texts and images, and which are right."""

    texts: Tensor
    images: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.texts)


def softmax_over_positives(logits: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE with several positives: the mean over rows of -log(the positives' share of the softmax).

    Args:
        logits: (n, m).
        positive: bool (n, m). Rows without a positive do not count.
    """
    everything = logits.logsumexp(1)
    right = logits.masked_fill(~positive, _EXCLUDED).logsumexp(1)
    counted = positive.any(1)
    return ((everything - right) * counted).sum() / counted.sum().clamp(min=1)


def natural_lists(pool: CrossPool, depth: int, *, images: bool) -> Lists:
    """The best images of every text, or the best texts of every image.

    Queries whose right answer is not among them are left out: forced into the list, it taught the wrong lesson.
    """
    scores = pool.scores() if images else pool.scores().T
    found = scores.topk(min(depth, scores.shape[1]), dim=1).indices
    own = torch.arange(len(found))[:, None].expand_as(found)
    texts, numbers = (own, found) if images else (found, own)
    right = pool.right[texts, numbers]
    kept = right.any(1)
    return Lists(texts[kept], numbers[kept], right[kept])


def pair_logits(model: CrossEncoder, pool: CrossPool, texts: Tensor, images: Tensor) -> Tensor:
    """Logits of pairs of any shape before calibration: (members, ...)."""
    flat, other = texts.flatten(), images.flatten()
    present = pool.present[flat]
    present = present[:, : int(present.sum(1).max())]
    found = model.logits(pool.text[flat], pool.words[flat, : present.shape[1]], present, pool.rows[other])
    return found.reshape(-1, *texts.shape)


def train_cross_encoder(pools: Sequence[CrossPool], recipe: CrossRecipe) -> CrossEncoder:
    """Train on the lists of all pools, both directions in turn."""
    torch.manual_seed(recipe.seed)
    model = CrossEncoder(dropout=recipe.dropout)
    sets = [
        (pool, natural_lists(pool, recipe.depth, images=images), recipe.lists // (3 if number else 1))
        for number, pool in enumerate(pools)
        for images in (True, False)
    ]
    _standardise(model, sets[0][0], sets[0][1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1)
    binary = nn.BCEWithLogitsLoss()
    model.train()
    for step in range(recipe.steps):
        loss = torch.zeros(())
        for pool, lists, count in sets:
            chosen = torch.randint(len(lists), (count,))
            right = lists.right[chosen]
            for logits in pair_logits(model, pool, lists.texts[chosen], lists.images[chosen]):
                listed = softmax_over_positives(logits, right)
                loss = loss + count / recipe.lists * (listed + recipe.pair_weight * binary(logits, right.float()))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            logger.info("cross-encoder, step %d, loss %.3f", step + 1, loss.item() / len(sets) / len(model.members))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _standardise(model: CrossEncoder, pool: CrossPool, lists: Lists) -> None:
    """Set the means and deviations of the features from some lists."""
    texts, images = lists.texts[:400].flatten(), lists.images[:400].flatten()
    pairs, singles = compare(pool.text[texts], pool.words[texts], pool.present[texts], pool.rows[images])
    matches = singles[..., :WORD_FEATURES][pool.present[texts] > 0]
    for values, mean, deviation in ((pairs, model.mean, model.deviation), (matches, model.word_mean, model.word_deviation)):
        mean.copy_(values.mean(0))
        deviation.copy_(values.std(0) + 1e-3)


@torch.no_grad()
def reranked(model: CrossEncoder, pool: CrossPool, k: int, queries: Tensor, *, images: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The k candidates of queries, as the bi-encoder has them, in the cross-encoder's order, and its logits: each (queries, k)."""
    scores = pool.scores() if images else pool.scores().T
    found = scores[queries].topk(k, dim=1).indices
    own = queries[:, None].expand_as(found)
    texts, numbers = (own, found) if images else (found, own)
    parts = [
        pair_logits(model, pool, texts[start : start + 100], numbers[start : start + 100]).mean(0)
        for start in range(0, len(texts), 100)
    ]
    logits, order = torch.cat(parts).sort(1, descending=True)
    return found, found.gather(1, order), logits


def calibrate(model: CrossEncoder, logits: Tensor, right: Tensor) -> None:
    """Fit the probability's slope and offset (Platt 1999) to pairs that the cross-encoder was not trained on."""
    line = nn.Parameter(torch.tensor([1.0, -float(logits.mean())]))
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(line[0] * logits + line[1], right.float())
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    model.calibration.copy_(line.detach())


def error_of_mean(values: Tensor, groups: Tensor) -> float:
    """The standard error of the mean of `values` (n,), of which those of one group (n,) depend on each other.

    It is the square root of G / (G - 1) times the sum over the G groups of the squared sum of their deviations, divided by n:
    Cameron and Miller, "A Practitioner's Guide to Cluster-Robust Inference" (2015), for a constant. With groups of one it is
    the usual standard error.
    """
    _, number = np.unique(groups.numpy(), return_inverse=True)
    sums = np.bincount(number, weights=(values.double() - values.double().mean()).numpy())
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values))


def cross_validate(pools: Sequence[CrossPool], recipe: CrossRecipe, k: int = 50) -> dict[str, Any]:
    """Train without a fold of every pool's images and their texts, and rerank the fold's queries in the whole pool.

    Returns:
        per pool and direction R@1, R@5, R@10 of bi-encoder and Coop, the gain at R@1 and its standard error by image, in percent;
        under `logits` and `right` the reranked pairs of the first pool, for `calibrate`.
    """
    folds = [np.random.default_rng(recipe.seed).permutation(pool.right.shape[1]) % FOLDS for pool in pools]
    hits: dict[tuple[int, bool], list[tuple[Tensor, Tensor]]] = {}
    asked: dict[tuple[int, bool], list[Tensor]] = {}  # the image of each query: itself, or the first that a text describes
    logits, right = [], []
    for fold in range(FOLDS):
        model = train_cross_encoder([pool.take(np.flatnonzero(f != fold)) for pool, f in zip(pools, folds, strict=True)], recipe)
        for number, (pool, f) in enumerate(zip(pools, folds, strict=True)):
            inside = torch.from_numpy(f == fold)
            for images in (True, False):
                queries = torch.nonzero(pool.right[:, inside].any(1) if images else inside)[:, 0]
                found, order, scores = reranked(model, pool, min(k, min(pool.right.shape)), queries, images=images)
                truth = (pool.right if images else pool.right.T)[queries]
                before, after = truth.gather(1, found), truth.gather(1, order)
                hits.setdefault((number, images), []).append((before, after))
                asked.setdefault((number, images), []).append(truth.int().argmax(1) if images else queries)
                if number == 0:
                    logits.append(scores.flatten())
                    right.append(after.flatten())
    figures: dict[str, Any] = {"logits": torch.cat(logits), "right": torch.cat(right)}
    for (number, images), parts in hits.items():
        before, after = (torch.cat(some) for some in zip(*parts, strict=True))
        gain = 100 * (after[:, 0].float() - before[:, 0].float())
        figures[f"pool {number}, {'text to image' if images else 'image to text'}"] = {
            "be": [round(100 * float(before[:, :n].any(1).float().mean()), 1) for n in (1, 5, 10)],
            "coop": [round(100 * float(after[:, :n].any(1).float().mean()), 1) for n in (1, 5, 10)],
            "gain": [round(float(gain.mean()), 2), round(error_of_mean(gain, torch.cat(asked[number, images])), 2)],
        }
    return figures
