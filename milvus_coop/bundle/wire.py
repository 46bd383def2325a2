"""The form in which the inputs of a cross-encoder travel to a Triton server: the text of a request once, and not once per pair.

Triton joins requests along the first axis of their inputs, the pairs, so every input must have one row per pair. A text side of one
row for k pairs is therefore padded with zeros and cut into k equal slices: an array of shape (k, ceil(size / k)). Triton does not
compare the shapes of such inputs (`allow_ragged_batch`), and puts the values of all requests behind each other. Its batch inputs
tell where each request begins, so the server can put the rows together again. If every pair has a text of its own, the slices are
simply the rows. The pairs of all joined requests are still at most the graph's `max_batch`.

Token ids and masks are small, and travel once per pair: their shape tells the length of the texts, which must be equal in all
requests that are joined. Masks travel as int8, and the scales of image tokens as float16, in which they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from milvus_coop.bundle.spec import (
    CE_PREFIX,
    CROSS_ENCODER,
    IMAGE_SIDE,
    IMAGE_TOKEN_SCALES,
    BundleSpec,
    Dtype,
    GraphSpec,
    TensorSpec,
)
from milvus_coop.types import Array

BLOCK = 4
"""Maximum number of values that the server moves in one step. The begin of a request is a multiple of it."""
NARROW: Mapping[str, str] = {"attention_mask": "int8", CE_PREFIX + "attention_mask": "int8", IMAGE_TOKEN_SCALES: "float16"}
"""The dtype in which an input travels, if it is another one than in the graph."""


@dataclass(frozen=True, slots=True)
class SpreadInput:
    """An input of the text side whose values are spread over the rows of a request."""

    tensor: TensorSpec
    length_of: str
    """Name of the input whose second axis is the dynamic axis of this one; empty if the shape is fixed."""

    @property
    def begins(self) -> str:
        """Name of the batch input with the begin of each request and the end of the last one, in values."""
        return f"{self.tensor.name}_begins"

    @property
    def fixed(self) -> int:
        """Product of the fixed axes: the number of values per text, or per token."""
        return math.prod(n for n in self.tensor.shape if n != -1)

    @property
    def block(self) -> int:
        """Number of values that are moved in one step."""
        return math.gcd(self.fixed, BLOCK)

    def size(self, length: int) -> int:
        """Number of values of a text whose dynamic axis has that length."""
        return self.fixed * (length if self.length_of else 1)


@dataclass(frozen=True, slots=True)
class Wire:
    """The form in which the inputs of one graph travel."""

    graph: GraphSpec
    spread: tuple[SpreadInput, ...]
    counted: TensorSpec
    """An input of fixed shape with one row per pair, which tells the number of pairs of each request."""

    PAIR_BEGINS = "pair_begins"
    """Name of the batch input with the begin of each request in `counted`, in values."""

    @property
    def is_spread(self) -> frozenset[str]:
        """Names of the inputs that are spread."""
        return frozenset(one.tensor.name for one in self.spread)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of a request, in the order of the graph. Spread inputs have a dynamic axis."""
        spread = self.is_spread
        return tuple(
            TensorSpec(t.name, cast(Dtype, NARROW.get(t.name, t.dtype)), (-1,) if t.name in spread else t.shape)
            for t in self.graph.inputs
        )

    @property
    def batch_inputs(self) -> dict[str, str]:
        """Names of the inputs that Triton adds, each with the name of the input whose values it counts."""
        return {self.PAIR_BEGINS: self.counted.name} | {one.begins: one.tensor.name for one in self.spread}

    @property
    def served(self) -> GraphSpec:
        """The graph that reads the joined requests. Spread inputs and batch inputs have one axis."""
        spread = self.is_spread
        joined = (TensorSpec(t.name, t.dtype, ()) if t.name in spread else t for t in self.inputs)
        added = (TensorSpec(name, "int32", ()) for name in self.batch_inputs)
        return GraphSpec(self.graph.name, self.graph.file, (*joined, *added), self.graph.outputs, self.graph.max_batch)

    def pack(self, arrays: Mapping[str, Array], n: int) -> dict[str, Array]:
        """The inputs of a request of n pairs.

        Args:
            arrays: the inputs of the graph; arrays of shape (n or 1, ...), where a single row belongs to every pair.
            n: number of pairs, at least 1.
        """
        blocks = {one.tensor.name: one.block for one in self.spread}
        packed = {}
        for tensor in self.inputs:
            array = arrays[tensor.name]
            if tensor.name in blocks and len(array) == 1 < n:
                slices = _slices(array, n, blocks[tensor.name])
                if slices.shape[1] < array.size:  # otherwise it would look like n texts
                    packed[tensor.name] = slices
                    continue
            rows = np.repeat(array, n, axis=0) if len(array) == 1 < n else array
            packed[tensor.name] = rows.reshape(n, -1) if tensor.name in blocks else rows.astype(tensor.dtype, copy=False)
        return packed


def _slices(array: Array, n: int, block: int) -> Array:
    """The values of an array in n rows, with zeros behind them: together a multiple of `block`."""
    step = block // math.gcd(block, n)
    width = -(-array.size // (n * step)) * step
    slices = np.zeros(n * width, array.dtype)
    slices[: array.size] = array.reshape(-1)
    return slices.reshape(n, width)


def wire_of(graph: GraphSpec) -> Wire | None:
    """The form in which the inputs of a graph travel; None if they travel as the graph reads them.

    This is so for the encoders, and for cross-encoders that read nothing of a text but token ids and masks.
    """
    text_side = [tensor for tensor in graph.inputs if tensor.name not in IMAGE_SIDE]
    lengths = {tensor.name.startswith(CE_PREFIX): tensor.name for tensor in text_side if _is_words(tensor)}
    spread = [
        SpreadInput(t, lengths.get(t.name.startswith(CE_PREFIX), "") if -1 in t.shape else "")
        for t in text_side
        if not _is_words(t)
    ]
    spread = [one for one in spread if -1 not in one.tensor.shape or (one.length_of and one.tensor.shape.count(-1) == 1)]
    counted = [tensor for tensor in graph.inputs if tensor.name in IMAGE_SIDE and -1 not in tensor.shape]
    if graph.name != CROSS_ENCODER or not spread or not counted:
        return None
    return Wire(graph, tuple(spread), counted[0])


def _is_words(tensor: TensorSpec) -> bool:
    return tensor.dtype == "int64"


def served_graph(graph: GraphSpec) -> GraphSpec:
    """The graph as Triton's own backends run it: with the inputs of joined requests, if they travel in another form."""
    wire = wire_of(graph)
    return graph if wire is None else wire.served


def wires_of(spec: BundleSpec) -> dict[str, Wire]:
    """The form of the inputs by graph, for the graphs that have one."""
    return {graph.name: wire for graph in spec.graphs if (wire := wire_of(graph)) is not None}
