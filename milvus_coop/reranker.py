"""The cross-encoder: match probabilities for pairs of one text and one image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from milvus_coop.backends.base import Backend
from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS
from milvus_coop.types import Array


class Reranker:
    """Runs the cross-encoder of a backend's bundle. Safe to share between threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def score(self, text_side: Mapping[str, Array], tokens: Array, scales: Array, *, timeout_s: float | None = None) -> Array:
        """Score pairs; pair i is text i and image i. One row on either side stands for as many as the other side has.

        Args:
            text_side: what `Encoder.encode_texts` returned; arrays of shape (n or 1, ...).
            tokens: int8 of shape (n or 1, count, token_dim).
            scales: float16 or float32 of shape (n or 1, count).
            timeout_s: limit for the whole call.

        Returns:
            float32 of shape (n,), match probabilities in [0, 1].

        Raises:
            BackendError: if the backend fails; see `Backend.run`.
        """
        inputs = {**text_side, IMAGE_TOKENS: tokens, IMAGE_TOKEN_SCALES: scales.astype(np.float32)}
        n = max(map(len, inputs.values()))
        pairs = {name: np.repeat(array, n, axis=0) if len(array) == 1 < n else array for name, array in inputs.items()}
        return self._backend.run(CROSS_ENCODER, pairs, timeout_s=timeout_s)["match_probability"]
