"""A backend that remembers texts: a caption that is a candidate of many pictures runs through the text encoder once.

For figures of quality only. Cost is measured without it, because a search does encode the texts of its candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from milvus_coop.backends import Backend
from milvus_coop.bundle.spec import TEXT_ENCODER, BundleSpec, GraphSpec
from milvus_coop.types import Array

MASK = "attention_mask"
MEMO_BYTES = 512 * 2**20

Known = dict[str, Array]


class MemoBackend:
    """Another backend with a memory for what its text encoder said; it forgets everything when it is full.

    Texts are told apart by their unpadded token ids. What the text encoder returns per token is cut to the text's length and padded
    with zeros again: the cross-encoder reads it under the mask.
    """

    def __init__(self, backend: Backend, limit_bytes: int = MEMO_BYTES) -> None:
        self._backend = backend
        self._limit_bytes = limit_bytes
        self._memo: dict[bytes, Known] = {}
        self._n_bytes = 0

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle that is run."""
        return self._backend.spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Backend.run`."""
        if graph != TEXT_ENCODER or MASK not in inputs or "input_ids" not in inputs:
            return self._backend.run(graph, inputs, timeout_s=timeout_s)
        lengths = inputs[MASK].sum(axis=1).tolist()
        keys = [row[:n].tobytes() for row, n in zip(inputs["input_ids"], lengths, strict=True)]
        first = {key: i for i, key in enumerate(keys) if key not in self._memo}
        known = {key: self._memo[key] for key in set(keys) - set(first)}
        if first:
            rows = list(first.values())
            outputs = self._backend.run(graph, {name: array[rows] for name, array in inputs.items()}, timeout_s=timeout_s)
            for position, (key, row) in enumerate(first.items()):
                known[key] = self._cut(self.spec.graph(graph), outputs, position, lengths[row])
            self._remember({key: known[key] for key in first})
        return self._joined(self.spec.graph(graph), [known[key] for key in keys], inputs["input_ids"].shape[1])

    def load(self, graphs: Sequence[str]) -> None:
        """See `Backend.load`."""
        self._backend.load(graphs)

    def close(self) -> None:
        """The backend underneath stays open: whoever opened it closes it."""
        self._memo.clear()

    def _cut(self, graph: GraphSpec, outputs: Mapping[str, Array], row: int, length: int) -> Known:
        return {
            t.name: (outputs[t.name][row][:length] if t.shape[:1] == (-1,) else outputs[t.name][row]).copy() for t in graph.outputs
        }

    def _remember(self, new: Mapping[bytes, Known]) -> None:
        self._n_bytes += sum(array.nbytes for entry in new.values() for array in entry.values())
        if self._n_bytes > self._limit_bytes:
            self._memo.clear()
            self._n_bytes = 0
            return
        self._memo.update(new)

    def _joined(self, graph: GraphSpec, entries: Sequence[Known], length: int) -> dict[str, Array]:
        joined = {}
        for tensor in graph.outputs:
            shape = tuple(length if n == -1 else n for n in tensor.shape)
            array = np.zeros((len(entries), *shape), dtype=tensor.dtype)
            for row, entry in zip(array, entries, strict=True):
                row[: len(entry[tensor.name])] = entry[tensor.name]
            joined[tensor.name] = array
        return joined
