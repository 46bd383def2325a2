"""The dev score: retrieval over the dev pool in memory, by exact search, with and without rescoring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from milvus_coop.errors import DatasetError
from milvus_coop.training.data.corpus import Corpus
from milvus_coop.training.data.sampling import blocks
from milvus_coop.training.data.visuals import Visuals
from milvus_coop.training.metrics import KS, recalls
from milvus_coop.training.networks.one_stream import OneStream
from milvus_coop.types import Array

LEAST_IMAGES = 2
_BLOCK = 256
_PAIRS = 1024


@dataclass(frozen=True)
class Embedded:
    """A split through one network: its own embeddings and image tokens."""

    texts: Tensor
    """unit (captions, dim)."""
    images: Tensor
    """unit (images, dim); NaN rows for pictures that could not be read."""
    tokens: Tensor
    """(images, tokens, token_dim)."""


@torch.no_grad()
def embed(network: OneStream, corpus: Corpus, visuals: Visuals, device: torch.device) -> Embedded:
    """Embed every caption and image of a split, in eval mode."""
    was_training = network.training
    network.eval()
    texts = [
        network.embed_texts(*(torch.from_numpy(part).to(device) for part in corpus.tokens(np.arange(block.start, block.stop))))
        for block in blocks(len(corpus.texts), _BLOCK)
    ]
    tokens, images = [], []
    for block in blocks(len(visuals), _BLOCK):
        seen = visuals.fetch(np.arange(block.start, block.stop))
        tokens.append(network.tokens(torch.from_numpy(seen.visual).to(device)))
        embedded = network.embed_images(tokens[-1])
        images.append(embedded.masked_fill(~torch.from_numpy(seen.usable).to(device)[:, None], float("nan")))
    network.train(was_training)
    return Embedded(torch.cat(texts), torch.cat(images), torch.cat(tokens))


@torch.no_grad()
def rescore(network: OneStream, corpus: Corpus, tokens: Tensor, candidates: Array) -> Array:
    """Cross-encoder logits of chosen pairs.

    Args:
        network: in any mode; scored in eval mode.
        corpus: the split.
        tokens: image tokens of the split, (images, tokens, token_dim).
        candidates: int64 (pairs, 2): caption, image.

    Returns:
        float32 (pairs,).
    """
    was_training = network.training
    network.eval()
    parts = []
    for block in blocks(len(candidates), _PAIRS):
        captions, images = candidates[block].T
        ids, mask = (torch.from_numpy(part).to(tokens.device) for part in corpus.tokens(captions))
        parts.append(network.match(ids, mask, tokens[torch.from_numpy(images).to(tokens.device)]).float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def dev_scores(
    network: OneStream, retriever: OneStream, corpus: Corpus, visuals: Visuals, *, k: int, device: torch.device
) -> dict[str, float]:
    """Recalls in percent: `be_*` of the retriever's cosines, `coop_*` after the network rescored its best `k`; `mr`: their means.

    k = 0: without rescoring.

    Every caption is a query against all images, and every image against all captions; what lies beyond k keeps its order.

    Raises:
        DatasetError: fewer than two pictures can be read.
    """
    found = embed(retriever, corpus, visuals, device)
    usable = ~torch.isnan(found.images[:, 0]).cpu().numpy()
    if usable.sum() < LEAST_IMAGES:
        raise DatasetError(
            f"{usable.sum()} of {len(usable)} pictures of dev can be read", expected=f"at least {LEAST_IMAGES}: see problems.jsonl"
        )
    cosines = torch.nan_to_num(found.texts @ found.images.T, nan=-2.0).float().cpu().numpy()
    relevant = corpus.same(np.arange(len(corpus.texts)), np.arange(len(corpus.items))) & usable
    roles = {"be": (cosines, cosines.T)}
    if k:
        tokens = found.tokens if network is retriever else embed(network, corpus, visuals, device).tokens
        roles["coop"] = _rescored(network, corpus, tokens, cosines, k)
    figures: dict[str, float] = {}
    for role, scores in roles.items():
        both = []
        for direction, matrix, right in zip(("t2i", "i2t"), scores, (relevant, relevant.T), strict=True):
            asked = right.any(1)
            hits = recalls(matrix[asked], right[asked])
            figures |= {f"{role}_{direction}_r{depth}": round(hits.percent(depth), 3) for depth in KS}
            both += [hits.percent(depth) for depth in KS]
        figures[f"{role}_mr"] = round(float(np.mean(both)), 3)
    return figures


def _rescored(network: OneStream, corpus: Corpus, tokens: Tensor, cosines: Array, k: int) -> tuple[Array, Array]:
    """Scores whose order is the final ranking, (captions, images) and (images, captions)."""
    results = []
    for turned, matrix in ((False, cosines), (True, cosines.T)):
        best = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
        rows = np.repeat(np.arange(len(matrix)), best.shape[1])
        pairs = np.stack([best.ravel(), rows] if turned else [rows, best.ravel()], axis=1)
        logits = rescore(network, corpus, tokens, pairs)
        final = matrix.astype(np.float64) - 1e6  # every rescored candidate stands above the others
        final[rows, best.ravel()] = logits
        results.append(final)
    return results[0], results[1]
