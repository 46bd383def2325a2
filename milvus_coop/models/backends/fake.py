"""A backend without a model, for the tests of this package and of programs that use it.

Its outputs have the shapes and dtypes of the imitated bundle. They are deterministic, do not depend on padding or on the other rows
of a batch, and have no meaning.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS, BundleSpec, TensorSpec
from milvus_coop.errors import MilvusCoopError
from milvus_coop.models.backends.base import check_inputs, run_in_batches
from milvus_coop.types import Array

GRID = 4
"""Cells per side of a grid. The fake outputs for an image depend on its mean colour in each cell."""


class FakeBackend:
    """Imitates a bundle without running it.

    Args:
        spec: the bundle to imitate.
        failures: the error to raise, by graph name. A test may change this dict to break and repair a graph.
        delays_s: the time that each run of a graph takes, in seconds, by graph name.
    """

    def __init__(
        self, spec: BundleSpec, *, failures: dict[str, MilvusCoopError] | None = None, delays_s: dict[str, float] | None = None
    ) -> None:
        self._spec = spec
        self.failures = failures if failures is not None else {}
        self.delays_s = delays_s if delays_s is not None else {}
        self.rows: dict[str, int] = {}
        """Number of rows that each graph was run on."""

    @property
    def spec(self) -> BundleSpec:
        """The record of the imitated bundle."""
        return self._spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Backend.run`; `timeout_s` is not used."""
        spec = self._spec.graph(graph)
        batch = check_inputs(spec, inputs)
        if graph in self.failures:
            raise self.failures[graph]
        time.sleep(self.delays_s.get(graph, 0.0))
        self.rows[graph] = self.rows.get(graph, 0) + batch

        def run_one(part: Mapping[str, Array]) -> dict[str, Array]:
            if graph == CROSS_ENCODER:
                return {t.name: _probability(part) for t in spec.outputs}
            features = _text_features(part) if "input_ids" in part else _image_features(part["pixel_values"])
            length = part["input_ids"].shape[1] if "input_ids" in part else 1
            return {t.name: _output(t, features, length) for t in spec.outputs}

        return run_in_batches(spec, inputs, batch, run_one)

    def load(self, graphs: Sequence[str]) -> None:
        """Do nothing: there is nothing to load."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def _text_features(part: Mapping[str, Array]) -> Array:
    table = np.random.default_rng(0).standard_normal((4096, 48))
    ids = table[part["input_ids"] % 4096] * part["attention_mask"][..., None]
    return np.asarray(ids.sum(axis=1))


def _image_features(pixels: Array) -> Array:
    n, channels, size, _ = pixels.shape
    cell = size // GRID
    grid = pixels[:, :, : cell * GRID, : cell * GRID].reshape(n, channels, GRID, cell, GRID, cell).mean(axis=(3, 5))
    return np.asarray(grid.reshape(n, -1) - 100.0)


def _output(tensor: TensorSpec, features: Array, length: int) -> Array:
    fixed = tuple(max(n, 1) for n in tensor.shape)
    projected = _project(features, int(np.prod(fixed)), tensor.name).reshape(len(features), *fixed)
    shape = tuple(length if n == -1 else n for n in tensor.shape)
    projected = np.broadcast_to(projected, (len(features), *shape))
    return np.asarray(projected / (np.linalg.norm(projected, axis=-1, keepdims=True) + 1e-9), dtype=tensor.dtype)


def _probability(part: Mapping[str, Array]) -> Array:
    tokens = part[IMAGE_TOKENS] * part[IMAGE_TOKEN_SCALES][..., None]
    image = _project(tokens.reshape(len(tokens), -1), 16, "image")
    embedding = part.get("text_embedding")
    text = _project(_text_features(part) if embedding is None else embedding, 16, "text")
    cosine = (image * text).sum(axis=1) / (np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1) + 1e-9)
    return np.asarray(1.0 / (1.0 + np.exp(-4.0 * cosine)), dtype=np.float32)


def _project(features: Array, width: int, seed: str) -> Array:
    matrix = np.random.default_rng(zlib.crc32(seed.encode())).standard_normal((features.shape[1], width))
    # Row by row: one big product would round differently for different batch sizes.
    return np.stack([row @ matrix for row in features.astype(np.float64)])
