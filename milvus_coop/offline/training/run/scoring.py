"""The dev score: retrieval over the dev pool in memory, by exact search, with and without reranking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from milvus_coop.errors import DatasetError
from milvus_coop.offline.training.data.corpus import TrainingCorpus
from milvus_coop.offline.training.data.sampling import blocks
from milvus_coop.offline.training.data.visuals import Visuals
from milvus_coop.offline.training.networks.one_stream import OneStream
from milvus_coop.offline.training.run.precision import computing
from milvus_coop.types import Array

KS = (1, 5, 10)
MINIMUM_IMAGES = 2
_BLOCK = 256
_PAIRS = 512

OnDone = Callable[[str, int, int], None]
"""Takes (stage, number done, number in all)."""


@dataclass(frozen=True)
class EmbeddedSplit:
    """The embeddings and image tokens of a split, by one network."""

    texts: Tensor
    """Text embeddings, unit (captions, dim)."""
    images: Tensor
    """Image embeddings, unit (images, dim), with NaN rows for images that could not be read."""
    tokens: Tensor
    """Image tokens (images, tokens, token_dim)."""


@torch.no_grad()
def embed(
    network: OneStream,
    corpus: TrainingCorpus,
    visuals: Visuals,
    device: torch.device,
    *,
    precision: str = "no",
    on_done: OnDone | None = None,
) -> EmbeddedSplit:
    """Embed every caption and image of a split, in eval mode.

    Captions of similar length go through the network together. In the order of the split, half of the work would be padding.

    Args:
        network: the network, in any mode.
        corpus: the captions.
        visuals: the images.
        device: the network's device.
        precision: see `precision.computing`. The results are float32 in any case.
        on_done: called after each block.
    """
    was_training = network.training
    network.eval()
    done, total = 0, len(corpus.texts) + len(visuals)
    texts = torch.empty(len(corpus.texts), network.config.dim, device=device)
    tokens, images = [], []

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_done is not None:
            on_done("embedding", done, total)

    with computing(precision, device):
        order = np.argsort(corpus.lengths, kind="stable")
        for block in blocks(len(order), _BLOCK):
            parts = (torch.from_numpy(part).to(device) for part in corpus.tokens(order[block]))
            texts[torch.from_numpy(order[block]).to(device)] = network.embed_texts(*parts).float()
            advance(block.stop - block.start)
        for block in blocks(len(visuals), _BLOCK):
            seen = visuals.fetch(np.arange(block.start, block.stop))
            tokens.append(network.tokens(torch.from_numpy(seen.visual).to(device)).float())
            embedded = network.embed_images(tokens[-1]).float()
            images.append(embedded.masked_fill(~torch.from_numpy(seen.usable).to(device)[:, None], float("nan")))
            advance(block.stop - block.start)
    network.train(was_training)
    return EmbeddedSplit(texts, torch.cat(images), torch.cat(tokens))


@torch.no_grad()
def pair_logits(
    network: OneStream,
    corpus: TrainingCorpus,
    tokens: Tensor,
    candidates: Array,
    *,
    precision: str = "no",
    on_done: OnDone | None = None,
) -> Array:
    """Cross-encoder logits of chosen pairs. Pairs with captions of similar length are scored together.

    Args:
        network: the network, in any mode. It scores in eval mode.
        corpus: the split.
        tokens: image tokens of the split, (images, tokens, token_dim).
        candidates: pairs of caption and image, int64 (pairs, 2).
        precision: see `precision.computing`.
        on_done: called after each block.

    Returns:
        float32 (pairs,).
    """
    was_training = network.training
    network.eval()
    logits = np.zeros(len(candidates), np.float32)
    order = np.argsort(corpus.lengths[candidates[:, 0]], kind="stable")
    with computing(precision, tokens.device):
        for block in blocks(len(order), _PAIRS):
            captions, images = candidates[order[block]].T
            ids, mask = (torch.from_numpy(part).to(tokens.device) for part in corpus.tokens(captions))
            matched = network.match(ids, mask, tokens[torch.from_numpy(images).to(tokens.device)])
            logits[order[block]] = matched.float().cpu().numpy()
            if on_done is not None:
                on_done("reranking", block.stop, len(order))
    network.train(was_training)
    return logits


def dev_scores(
    network: OneStream,
    retriever: OneStream,
    corpus: TrainingCorpus,
    visuals: Visuals,
    *,
    k: int,
    device: torch.device,
    queries: int = 0,
    precision: str = "no",
    on_done: OnDone | None = None,
) -> dict[str, float]:
    """Recalls in percent of the dev pool.

    `be_*` are the recalls of the retriever's cosines over every query: each caption against all images, each image against all
    captions. `coop_*` are the recalls after the network has reranked the best `k`, over `queries` queries per direction (0: all).
    These are spread evenly over the pool and are the same at every evaluation. `mr` is the mean of R@1, R@5 and R@10 in both
    directions. `gain_mr` is the gain in `mr` by reranking, on the same queries. Items beyond k keep their order. With k = 0 nothing
    is reranked.

    Raises:
        DatasetError: fewer than two images can be read.
    """
    found = embed(retriever, corpus, visuals, device, precision=precision, on_done=on_done)
    usable = ~torch.isnan(found.images[:, 0]).cpu().numpy()
    if usable.sum() < MINIMUM_IMAGES:
        raise DatasetError(
            f"{usable.sum()} of {len(usable)} images of dev can be read", expected=f"at least {MINIMUM_IMAGES}: see problems.jsonl"
        )
    cosines = torch.nan_to_num(found.texts @ found.images.T, nan=-2.0).float().cpu().numpy()
    relevant = corpus.same(np.arange(len(corpus.texts)), np.arange(len(corpus.items))) & usable
    figures = _recalls("be", (cosines, cosines.T), (relevant, relevant.T))
    if k:
        tokens = found.tokens
        if network is not retriever:
            tokens = embed(network, corpus, visuals, device, precision=precision, on_done=on_done).tokens
        asked = (_spread(relevant.any(1), queries), _spread(relevant.any(0), queries))
        right = (relevant[asked[0]], relevant.T[asked[1]])
        before = (cosines[asked[0]], cosines.T[asked[1]])
        pairs, places = _candidates(before, asked, k)
        logits = pair_logits(network, corpus, tokens, pairs, precision=precision, on_done=on_done)
        after = (_reranked(before[0], k, logits[places[0]]), _reranked(before[1], k, logits[places[1]]))
        figures |= _recalls("coop", after, right)
        figures["gain_mr"] = round(figures["coop_mr"] - _recalls("be", before, right)["be_mr"], 3)
    return figures


def _recalls(role: str, scores: tuple[Array, Array], relevant: tuple[Array, Array]) -> dict[str, float]:
    """R@1, R@5 and R@10 in both directions, and their mean. Queries without a right answer do not count."""
    figures: dict[str, float] = {}
    both: list[float] = []
    for direction, matrix, right in zip(("t2i", "i2t"), scores, relevant, strict=True):
        asked = right.any(1)
        ranks = first_right_rank(matrix[asked], right[asked])
        percent = {k: float(100 * (ranks <= k).mean()) for k in KS}
        figures |= {f"{role}_{direction}_r{k}": round(percent[k], 3) for k in KS}
        both += percent.values()
    return {**figures, f"{role}_mr": round(float(np.mean(both)), 3)}


def first_right_rank(scores: Array, relevant: Array) -> Array:
    """The rank (from 1) of the best right answer. Wrong answers with an equal score count as better.

    Args:
        scores: (queries, answers).
        relevant: bool of the same shape; at least one True per row.
    """
    best = np.where(relevant, scores, -np.inf).max(1, keepdims=True)
    ranks: Array = 1 + ((scores >= best) & ~relevant).sum(1)
    return ranks


def _spread(possible: Array, count: int) -> Array:
    """`count` of the possible positions, evenly spaced. All of them if there are fewer, or if `count` is 0."""
    positions: Array = np.flatnonzero(possible)
    if not 0 < count < len(positions):
        return positions
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(np.int64)]


def _candidates(cosines: tuple[Array, Array], asked: tuple[Array, Array], k: int) -> tuple[Array, tuple[Array, Array]]:
    """The pairs to score, and the candidates of each query among them.

    Returns:
        Pairs (caption, image), each once: int64 (pairs, 2). For both directions the rows of each query's candidates: (queries, k).
    """
    keys = []
    n_images = cosines[0].shape[1]
    for turned, matrix, rows in zip((False, True), cosines, asked, strict=True):
        best = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
        keys.append(best * n_images + rows[:, None] if turned else rows[:, None] * n_images + best)
    pairs, places = np.unique(np.concatenate([part.ravel() for part in keys]), return_inverse=True)
    split = np.split(places, [keys[0].size])
    return np.stack(np.divmod(pairs, n_images), axis=1), (split[0].reshape(keys[0].shape), split[1].reshape(keys[1].shape))


def _reranked(cosines: Array, k: int, logits: Array) -> Array:
    """Scores that give the final order. `logits` are those of each query's best `k`, best first, (queries, k)."""
    final = cosines.astype(np.float64) - 1e6  # so that every reranked candidate is above the others
    np.put_along_axis(final, np.argsort(-cosines, axis=1, kind="stable")[:, :k], logits, axis=1)
    return final
