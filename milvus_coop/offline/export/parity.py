"""Comparison of an exported graph with its PyTorch module, on real inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import nn

from milvus_coop.offline.export.graphs import run_graph
from milvus_coop.types import Array


@dataclass(frozen=True)
class Difference:
    """The difference in one output: the largest absolute difference, and the smallest cosine between rows."""

    largest: float
    smallest_cosine: float


def compare(
    module: nn.Module, session: onnxruntime.InferenceSession, feeds: Mapping[str, Array], outputs: Sequence[str]
) -> dict[str, Difference]:
    """Run graph and module on `feeds` (batch first, in the order of the module's arguments) and compare every output."""
    with torch.no_grad():
        result = module(*(torch.from_numpy(value) for value in feeds.values()))
    expected = [result] if isinstance(result, torch.Tensor) else list(result)
    actual = run_graph(session, feeds)
    return {name: difference(value.numpy(), actual[name]) for name, value in zip(outputs, expected, strict=True)}


def difference(expected: Array, actual: Array) -> Difference:
    """Compare two arrays of shape (B, ...). The cosine of a row is 1 if it is zero in both, 0 if in one."""
    left, right = (value.reshape(len(value), -1).astype(np.float64) for value in (expected, actual))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = (left * right).sum(1) / np.where(norms > 0, norms, 1.0)
    both_zero = (np.abs(left).max(1) == 0) & (np.abs(right).max(1) == 0)
    return Difference(float(np.abs(left - right).max()), float(cosines[~both_zero].min(initial=1.0)))
