"""A backend that remembers what it encoded, such as a text that is a candidate of many images, or an image that is item and query.

It is for figures of quality only. Cost is measured without it, because a search does encode its query and its candidates' texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from milvus_coop.bundle.spec import IMAGE_ENCODER, TEXT_ENCODER, BundleSpec, GraphSpec
from milvus_coop.models.backends import Backend
from milvus_coop.types import Array

MASK = "attention_mask"
MEMO_BYTES = 512 * 2**20

Known = dict[str, Array]


class MemoBackend:
    """Another backend with a memory for the outputs of its encoders. It forgets everything when the memory is full.

    Texts are told apart by their unpadded token ids, images by their pixels. The text encoder's output per token is cut to the
    text's length and padded with zeros again. The cross-encoder ignores the padding because of the mask.
    """

    def __init__(self, backend: Backend, limit_bytes: int = MEMO_BYTES) -> None:
        self._backend = backend
        self._limit_bytes = limit_bytes
        self._memo: dict[bytes, Known] = {}
        self._n_bytes = 0

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle."""
        return self._backend.spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Backend.run`."""
        if graph not in (TEXT_ENCODER, IMAGE_ENCODER):
            return self._backend.run(graph, inputs, timeout_s=timeout_s)
        spec = self.spec.graph(graph)
        lengths = inputs[MASK].sum(axis=1).tolist() if MASK in inputs else None
        keys = _keys(spec, inputs, lengths)
        first = {key: row for row, key in enumerate(keys) if key not in self._memo}
        known = {key: self._memo[key] for key in set(keys) - set(first)}
        if first:
            rows = list(first.values())
            outputs = self._backend.run(graph, {name: array[rows] for name, array in inputs.items()}, timeout_s=timeout_s)
            for position, (key, row) in enumerate(first.items()):
                known[key] = _cut(spec, outputs, position, None if lengths is None else lengths[row])
            self._remember({key: known[key] for key in first})
        return _joined(spec, [known[key] for key in keys], len(inputs[MASK][0]) if lengths else 0)

    def load(self, graphs: Sequence[str]) -> None:
        """See `Backend.load`."""
        self._backend.load(graphs)

    def close(self) -> None:
        """Leave the backend underneath open. The code that opened it closes it."""
        self._memo.clear()

    def _remember(self, new: Mapping[bytes, Known]) -> None:
        self._n_bytes += sum(array.nbytes for entry in new.values() for array in entry.values())
        if self._n_bytes > self._limit_bytes:
            self._memo.clear()
            self._n_bytes = 0
            return
        self._memo.update(new)


def _keys(graph: GraphSpec, inputs: Mapping[str, Array], lengths: Sequence[int] | None) -> list[bytes]:
    """Keys that identify rows by their content, without padding."""
    arrays = [inputs[tensor.name] for tensor in graph.inputs]
    keys = []
    for i in range(len(arrays[0])):
        digest = hashlib.blake2b(graph.name.encode(), digest_size=16)
        for array in arrays:
            row = array[i] if lengths is None else array[i][: lengths[i]]
            digest.update(np.ascontiguousarray(row).data)
        keys.append(digest.digest())
    return keys


def _cut(graph: GraphSpec, outputs: Mapping[str, Array], row: int, length: int | None) -> Known:
    return {t.name: (outputs[t.name][row][:length] if t.shape[:1] == (-1,) else outputs[t.name][row]).copy() for t in graph.outputs}


def _joined(graph: GraphSpec, entries: Sequence[Known], length: int) -> dict[str, Array]:
    joined = {}
    for tensor in graph.outputs:
        shape = tuple(length if n == -1 else n for n in tensor.shape)
        array = np.zeros((len(entries), *shape), dtype=tensor.dtype)
        for row, entry in zip(array, entries, strict=True):
            row[: len(entry[tensor.name])] = entry[tensor.name]
        joined[tensor.name] = array
    return joined
