"""A backend that only sleeps, for the simulation in `sources.py`: on every worker of a Ray, it takes the place of the models."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.types import Array

SLEEP_MS = "MILVUS_COOP_BENCHMARK_SLEEP_MS"
"""The variable with the time that an image takes, in milliseconds."""


class SleepingBackend:
    """Answers with the same numbers for every image, after the time that a model would take.

    `FakeBackend` is not used because its numbers depend on the image, which takes more time than the simulation has for an image.
    """

    def __init__(self, spec: BundleSpec, ms: float) -> None:
        self._spec = spec
        self._ms = ms

    @property
    def spec(self) -> BundleSpec:
        return self._spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        n = len(next(iter(inputs.values())))
        time.sleep(self._ms * n / 1000)
        shapes = {tensor.name: (n, *tensor.shape) for tensor in self._spec.graph(graph).outputs}
        return {name: np.full(shape, 1 / np.sqrt(shape[-1]), np.float32) for name, shape in shapes.items()}

    def load(self, graphs: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        pass


def install() -> None:
    """Take the place of the models in this process. Ray calls it at the start of each process."""
    from milvus_coop.models import open as opening

    def open_backend(settings: Any, bundle: Any) -> SleepingBackend:
        return SleepingBackend(bundle.spec, float(os.environ[SLEEP_MS]))

    vars(opening)["open_backend"] = open_backend
