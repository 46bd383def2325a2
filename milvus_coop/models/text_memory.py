"""Remembers the encodings of the last texts, so that the next page of results or another filter does not cost them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from milvus_coop.bundle.spec import GraphSpec
from milvus_coop.types import Array

Run = Callable[[Sequence[int]], Mapping[str, Array]]
"""Runs the text encoder on these rows of a batch."""
Entry = Mapping[str, Array]
"""The outputs of the text encoder for one text, by name, without the axis of the batch."""


class TextMemory:
    """A bounded number of texts with the text encoder's outputs; the one that was not used for the longest time goes first.

    Safe to share between threads. It belongs to one encoder, and so to one bundle.

    Args:
        graph: the spec of the text encoder.
        limit: maximum number of texts; 0 remembers nothing.
    """

    def __init__(self, graph: GraphSpec, limit: int) -> None:
        self._graph = graph
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._entries)

    def outputs(self, texts: Sequence[str], length: int, run: Run) -> Mapping[str, Array]:
        """The outputs of the text encoder for a batch of texts. It runs on those that are not known, each of them once.

        Args:
            texts: n texts.
            length: the padded number of tokens of the batch. Known outputs per token are cut to it, or padded with zeros, which
                the attention mask hides from the cross-encoder.
            run: runs the text encoder.
        """
        if not self._limit or not texts:
            return run(range(len(texts)))
        known = self._known(texts)
        new = {text: row for row, text in enumerate(texts) if text not in known}
        if new:
            made = run(list(new.values()))
            found = {text: _row(made, row) for row, text in enumerate(new)}
            self._remember(found)
            if len(new) == len(texts):
                return made
            known |= found
        return self._joined([known[text] for text in texts], length)

    def _known(self, texts: Sequence[str]) -> dict[str, Entry]:
        with self._lock:
            known = {text: self._entries[text] for text in texts if text in self._entries}
            for text in known:
                self._entries.move_to_end(text)
        return known

    def _remember(self, found: Mapping[str, Entry]) -> None:
        kept = list(found.items())[-self._limit :]
        # A copy, because a row would keep the arrays of its whole batch.
        copies = {text: {name: array.copy() for name, array in entry.items()} for text, entry in kept}
        with self._lock:
            self._entries.update(copies)
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)

    def _joined(self, entries: Sequence[Entry], length: int) -> dict[str, Array]:
        return {
            tensor.name: np.stack(
                [_fitted(entry[tensor.name], length) if tensor.shape[:1] == (-1,) else entry[tensor.name] for entry in entries]
            )
            for tensor in self._graph.outputs
        }


def _row(outputs: Mapping[str, Array], row: int) -> Entry:
    return {name: array[row] for name, array in outputs.items()}


def _fitted(array: Array, length: int) -> Array:
    """An array of shape (any length, ...) with that length."""
    if len(array) >= length:
        return array[:length]
    return np.concatenate([array, np.zeros((length - len(array), *array.shape[1:]), array.dtype)])
