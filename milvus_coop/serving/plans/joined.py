"""Puts nodes in front of a cross-encoder, so that it reads the requests that Triton joined; see `milvus_coop.bundle.wire`.

Triton's ONNX Runtime and TensorRT backends give the values of spread inputs as one long row, and in batch inputs where each request
begins. The nodes find the request of each pair, and move the pair's text row to its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from milvus_coop.bundle.spec import TensorSpec
from milvus_coop.bundle.wire import SpreadInput, Wire

PREFIX = "wire."
"""Prefix of the names of what is added."""
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def join_requests(model: ModelProto, wire: Wire) -> None:
    """Let the model read the inputs of `wire.served`. It is changed in place; its outputs stay as they are."""
    nodes = _Nodes()
    changed = {one.tensor.name for one in wire.spread}
    changed |= {before.name for before, after in zip(wire.graph.inputs, wire.inputs, strict=True) if before.dtype != after.dtype}
    for node in model.graph.node:
        node.input[:] = [PREFIX + name if name in changed else name for name in node.input]
    _gather(nodes, wire)
    for before, after in zip(wire.graph.inputs, wire.inputs, strict=True):
        if before.dtype != after.dtype and before.name not in wire.is_spread:
            nodes.add("Cast", [before.name], PREFIX + before.name, to=_TYPES[before.dtype])
    known = {value.name: value for value in model.graph.input}
    inputs = [
        known[tensor.name] if tensor.name in known and tensor.name not in changed else _input(tensor)
        for tensor in wire.served.inputs
    ]
    own = [*nodes.nodes, *model.graph.node]
    del model.graph.input[:], model.graph.node[:]
    model.graph.input.extend(inputs)
    model.graph.node.extend(own)
    model.graph.initializer.extend(nodes.constants)


def write_joined(source: Path, target: Path, wire: Wire) -> None:
    """Write the graph in `source` so that it reads the inputs of `wire.served`. Weights in other files stay there."""
    model = onnx.load(str(source), load_external_data=False)
    join_requests(model, wire)
    target.write_bytes(model.SerializeToString())


def _gather(nodes: _Nodes, wire: Wire) -> None:
    number = nodes.add("Slice", [nodes.shape(wire.counted.name), *nodes.numbers([0], [1])])
    pairs = nodes.count(number)
    size = math.prod(wire.counted.shape)
    begins = nodes.add("Div", [Wire.PAIR_BEGINS, nodes.constant(size, np.int32)])
    as_row, as_column = nodes.numbers([0], [1])
    is_begun = nodes.add("LessOrEqual", [nodes.add("Unsqueeze", [begins, as_row]), nodes.add("Unsqueeze", [pairs, as_column])])
    following = nodes.add("ReduceSum", [nodes.add("Cast", [is_begun], to=TensorProto.INT32), as_column], keepdims=0)
    request = nodes.add("Sub", [following, nodes.constant(1, np.int32)])
    begin = nodes.add("Gather", [begins, request])
    place = nodes.add("Sub", [pairs, begin])  # of the pair in its request
    count = nodes.add("Sub", [nodes.add("Gather", [begins, following]), begin])  # pairs of the request
    for one in wire.spread:
        _gather_rows(nodes, one, number, request, following, place, count)


def _gather_rows(nodes: _Nodes, one: SpreadInput, number: str, request: str, following: str, place: str, count: str) -> None:
    """Make the rows of one input. A request has as many values as its pairs need, or fewer: then all pairs share its only text."""
    lengths = [nodes.add("Slice", [nodes.shape(one.length_of), *nodes.numbers([1], [2])])] if one.length_of else []
    shape = [number]
    for n in one.tensor.shape:
        shape += lengths if n == -1 else [nodes.constant([n])]
    size = nodes.constant([one.fixed])  # values of a row
    for length in lengths:
        size = nodes.add("Mul", [size, length])
    size32 = nodes.add("Cast", [size], to=TensorProto.INT32)
    begin = nodes.add("Gather", [one.begins, request])
    values = nodes.add("Sub", [nodes.add("Gather", [one.begins, following]), begin])
    has_own = nodes.add("GreaterOrEqual", [values, nodes.add("Mul", [count, size32])])
    own = nodes.add("Mul", [place, nodes.add("Cast", [has_own], to=TensorProto.INT32)])
    first = nodes.add("Div", [nodes.add("Add", [begin, nodes.add("Mul", [own, size32])]), nodes.constant(one.block, np.int32)])
    steps = nodes.count(nodes.add("Div", [size, nodes.constant([one.block])]))
    as_row, as_column = nodes.numbers([0], [1])
    index = nodes.add("Add", [nodes.add("Unsqueeze", [first, as_column]), nodes.add("Unsqueeze", [steps, as_row])])
    blocks = nodes.add("Reshape", [one.tensor.name, nodes.constant([-1, one.block])])
    rows = nodes.add("Gather", [blocks, index])
    nodes.add("Reshape", [rows, nodes.add("Concat", shape, axis=0)], PREFIX + one.tensor.name)


class _Nodes:
    """The nodes and constants that are added to a graph."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"{PREFIX}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], f"{output} node", **attributes))
        return output

    def constant(self, value: int | list[int], dtype: type[np.int32] | type[np.int64] = np.int64) -> str:
        name = f"{PREFIX}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def numbers(self, *values: list[int]) -> list[str]:
        return [self.constant(value) for value in values]

    def shape(self, name: str) -> str:
        return self.add("Shape", [name])

    def count(self, number: str) -> str:
        """The numbers from 0 up to the only value of `number`, int32."""
        limit = self.add("Squeeze", [number, self.constant([0])])
        return self.add("Cast", [self.add("Range", [self.constant(0), limit, self.constant(1)])], to=TensorProto.INT32)


def _input(tensor: TensorSpec) -> ValueInfoProto:
    sizes = [f"length of {tensor.name}" if n == -1 else n for n in tensor.shape]
    return helper.make_tensor_value_info(tensor.name, _TYPES[tensor.dtype], [f"rows of {tensor.name}", *sizes])
