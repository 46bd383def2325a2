"""The cross-encoder: match probabilities for pairs of one text and one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS, MATCH_LOGIT, MATCH_PROBABILITY
from milvus_coop.errors import BackendError
from milvus_coop.models.backends.base import Backend
from milvus_coop.types import Array

PAIRS_PER_RUN = 256
BYTES_PER_RUN = 128 * 2**20
"""Limits for the pairs that `score_rows` gathers for one run of the cross-encoder. Large tokens and pixels reach the second one."""

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = 1.0 - 2.0**-24  # the largest float32 below 1


@dataclass(frozen=True, slots=True)
class PairScores:
    """The scores of n pairs. In results of `Reranker.score_matrix`, each array has the shape (texts, images)."""

    probability: Array
    """Match probabilities in [0, 1], float32 of shape (n,)."""
    logit: Array
    """Logits, float32 of shape (n,): the number to which the score `sum` adds the cosine. If the graph has no such output, this is
    log(p / (1 - p))."""

    @property
    def sound(self) -> Array:
        """True for pairs with finite scores, bool of shape (n,). Damaged image tokens can be decoded and give others."""
        sound: Array = np.isfinite(self.probability) & np.isfinite(self.logit)
        return sound


class Reranker:
    """Runs the cross-encoder of a backend's bundle. Safe to share between threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def score(self, text_side: Mapping[str, Array], tokens: Array, scales: Array, *, timeout_s: float | None = None) -> Array:
        """Match probabilities of texts and image tokens, float32 of shape (n,); see `score_pairs`.

        Args:
            text_side: `text_side` of `Encoder.encode_texts`; arrays of shape (n or 1, ...).
            tokens: int8 of shape (n or 1, count, token_dim).
            scales: float16 or float32 of shape (n or 1, count).
            timeout_s: time limit of the whole call.
        """
        return self.score_pairs(text_side, {IMAGE_TOKENS: tokens, IMAGE_TOKEN_SCALES: scales}, timeout_s=timeout_s).probability

    def score_pairs(
        self, text_side: Mapping[str, Array], image_side: Mapping[str, Array], *, timeout_s: float | None = None
    ) -> PairScores:
        """Score pairs; pair i is text i with image i. If one side has a single row, that row is paired with every row of the other.

        Args:
            text_side: `text_side` of `Encoder.encode_texts`; arrays of shape (n or 1, ...).
            image_side: `image_side` of `Encoder.encode_images`, or stored tokens; arrays of shape (n or 1, ...).
            timeout_s: time limit of the whole call.

        Raises:
            BackendError: the backend failed; see `Backend.run`.
        """
        inputs = {**text_side, **image_side}
        if IMAGE_TOKEN_SCALES in inputs:
            inputs[IMAGE_TOKEN_SCALES] = inputs[IMAGE_TOKEN_SCALES].astype(np.float32)
        outputs = self._backend.run(CROSS_ENCODER, inputs, timeout_s=timeout_s)
        probability = outputs[MATCH_PROBABILITY]
        return PairScores(probability, outputs[MATCH_LOGIT] if MATCH_LOGIT in outputs else logit(probability))

    def score_rows(
        self,
        text_side: Mapping[str, Array],
        texts: Array,
        image_side: Mapping[str, Array],
        images: Array,
        *,
        timeout_s: float | None = None,
    ) -> PairScores:
        """Score pairs of rows; pair i is the text in row `texts[i]` with the image in row `images[i]`.

        The number of pairs is not limited: they are gathered and scored in portions.

        Args:
            text_side: `text_side` of `Encoder.encode_texts`.
            texts: row numbers, integers of shape (n,).
            image_side: `image_side` of `Encoder.encode_images`, or stored tokens.
            images: row numbers, integers of shape (n,).
            timeout_s: time limit of each portion, which has at most 256 pairs.

        Raises:
            BackendError: the backend failed; see `Backend.run`.
        """
        per_pair = sum(array[:1].nbytes for array in (*text_side.values(), *image_side.values()))
        step = max(1, min(PAIRS_PER_RUN, BYTES_PER_RUN // max(1, per_pair)))
        found = [
            self.score_pairs(
                {name: array[texts[start : start + step]] for name, array in text_side.items()},
                {name: array[images[start : start + step]] for name, array in image_side.items()},
                timeout_s=timeout_s,
            )
            for start in range(0, len(texts), step)
        ]
        if not found:
            return PairScores(np.empty(0, np.float32), np.empty(0, np.float32))
        return PairScores(np.concatenate([part.probability for part in found]), np.concatenate([part.logit for part in found]))

    def score_matrix(
        self, text_side: Mapping[str, Array], image_side: Mapping[str, Array], *, timeout_s: float | None = None
    ) -> PairScores:
        """Score every text with every image; for errors and the time limit, see `score_rows`.

        Returns:
            Arrays of shape (texts, images).
        """
        if not text_side:
            raise BackendError("an embedder has no cross_encoder", expected="no embedder, so that the bundle is used")
        shape = len(next(iter(text_side.values()))), len(next(iter(image_side.values())))
        texts, images = np.divmod(np.arange(shape[0] * shape[1]), max(1, shape[1]))
        found = self.score_rows(text_side, texts, image_side, images, timeout_s=timeout_s)
        return PairScores(found.probability.reshape(shape), found.logit.reshape(shape))


def logit(probability: Array) -> Array:
    """log(p / (1 - p)) of float32 probabilities; also finite for 0 and 1."""
    p = np.clip(probability.astype(np.float64), _SMALLEST, _LARGEST)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)
