"""Checks of a bundle's graphs from anyone, before ONNX Runtime, TensorRT or `onnx` reads them.

A graph must have the inputs and outputs that bundle.json promises and only known operators; its weights must be inside the file or
in a file of the bundle, and as large as their shapes say. What a graph computes when it runs is not checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from milvus_coop.bundle.onnx_format import DecodeError, parse_model
from milvus_coop.bundle.spec import FileSpec, GraphSpec, TensorSpec
from milvus_coop.errors import BundleInvalidError, quoted

OPERATORS = frozenset(
    [
        *("Abs", "Add", "And", "ArgMax", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Cos", "CumSum", "Div"),
        *("DynamicQuantizeLinear", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Gelu"),
        *("Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual", "Identity", "IsNaN", "LayerNormalization", "Less"),
        *("LessOrEqual", "Log", "LpNormalization", "MatMul", "MatMulInteger", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Or"),
        *("Pad", "Pow", "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape"),
        *("Shape", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "TopK", "Transpose"),
        *("Unsqueeze", "Where"),
    ]
)
"""Operators of the ONNX standard that a graph may use: those that our families and trainings export, and their closest relatives.

To add one, look it up in the standard: it must have no graph among its attributes and read no file."""

MAX_NODES = 20_000
MAX_AXES = 16
WEIGHT_COPIES = 8
"""Maximum number of values in weights, also after ONNX Runtime has converted them to float32, for each byte in the bundle's files.
The int8 weights of a graph that uses them all need 4. A tensor may be used twice, but not a thousand times."""
SMALL_WEIGHTS = 2**24
"""Number of values that any graph may have, however small its files."""

_OPERATORS = frozenset(name.encode() for name in OPERATORS)
_STANDARD = (b"", b"ai.onnx")
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_STORED = {
    1: (4, "float_data"),
    2: (1, "int32_data"),
    3: (1, "int32_data"),
    6: (4, "int32_data"),
    7: (8, "int64_data"),
    9: (1, "int32_data"),
    10: (2, "int32_data"),
    11: (8, "double_data"),
}
"""Element types of weights: number of bytes, and the field with the values if there is no `raw_data`. 9 is bool, 10 is float16."""
_INLINE, _EXTERNAL = 0, 1
_PLACE = {b"location", b"offset", b"length", b"checksum"}
_NUMBER = re.compile(rb"[0-9]{1,18}")

Shape = tuple[int, ...]
Faults = Iterator[tuple[str, str]]
"""What was given, and what is expected."""


def check_graph(content: bytes, graph: GraphSpec, files: Mapping[str, FileSpec], source: str) -> frozenset[str]:
    """Check the content of a graph file.

    Args:
        content: the bytes of the file.
        graph: what bundle.json says about the graph.
        files: the files of the bundle, in which weights may be.
        source: the name of the file for messages.

    Returns:
        The operators of the graph.

    Raises:
        BundleInvalidError: the graph is broken, or is not what it should be.
    """
    try:
        model = parse_model(content)
    except DecodeError as exc:
        raise BundleInvalidError(f"{source} is not an ONNX file", run="copy the bundle again") from exc
    budget = WEIGHT_COPIES * sum(file.n_bytes for file in files.values()) + SMALL_WEIGHTS
    for given, expected in _faults(model, graph, files, budget):
        raise BundleInvalidError(f"{source}: {given}", expected=expected)
    return frozenset(map(_text, {node.op_type for node in model.graph.node}))


def _faults(model: Any, graph: GraphSpec, files: Mapping[str, FileSpec], budget: int) -> Faults:
    if model.functions or model.training_info or model.graph.sparse_initializer:
        yield "the model has functions, sparse weights or a training graph", "one plain graph"
    if len(model.graph.node) > MAX_NODES:
        yield f"the graph has {len(model.graph.node):,} nodes", f"at most {MAX_NODES:,}"
    weights: dict[bytes, Shape] = {}
    for tensor in model.graph.initializer:
        for given, expected in _faults_of_weights(tensor, files):
            yield f"the weights {quoted(_text(tensor.name))} {given}", expected
        if tensor.name in weights:
            yield f"the weights {quoted(_text(tensor.name))} are there twice", "one tensor of each name"
        weights[tensor.name] = tuple(tensor.dims)
    yield from _faults_of_ends(model.graph.input, graph.inputs, weights, "input")
    yield from _faults_of_ends(model.graph.output, graph.outputs, {}, "output")
    yield from _faults_of_nodes(model.graph, weights, budget)


def _faults_of_weights(tensor: Any, files: Mapping[str, FileSpec]) -> Faults:
    """Faults of one tensor; `given` goes on after its name."""
    if tensor.data_type not in _STORED:
        yield f"have the element type {tensor.data_type}", "float32, float16, float64, int8, uint8, int32, int64 or bool"
    item, field = _STORED[tensor.data_type]
    if len(tensor.dims) > MAX_AXES or any(size < 0 for size in tensor.dims):
        yield f"have the shape {quoted(tuple(tensor.dims))}", f"at most {MAX_AXES} axes of length 0 or more"
    count = math.prod(tensor.dims)
    if tensor.data_location == _EXTERNAL:
        yield from _faults_of_place(tensor, count * item, files)
    elif tensor.data_location != _INLINE or tensor.external_data:
        yield "are neither inside the file nor in a file of the bundle", "one of the two"
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * item:
            yield f"have {len(tensor.raw_data):,} bytes", f"{_short(count * item)}, as their shape says"
    elif len(getattr(tensor, field)) != count:
        yield f"have {len(getattr(tensor, field)):,} values", f"{_short(count)}, as their shape says"


def _faults_of_place(tensor: Any, n_bytes: int, files: Mapping[str, FileSpec]) -> Faults:
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = _text(place.get(b"location", b""))
    if location not in files:
        yield f"are in {quoted(location)}", f"one of the bundle's files: {', '.join(files)}"
    if unknown := place.keys() - _PLACE:
        yield f"have the entry {quoted(_text(min(unknown)))}", "location, offset and length"
    offset, length = place.get(b"offset", b"0"), place.get(b"length", b"")
    if not _NUMBER.fullmatch(offset) or not _NUMBER.fullmatch(length) or int(length) != n_bytes:
        given = f"are {quoted(_text(length))} bytes from {quoted(_text(offset))}"
        yield given, f"{_short(n_bytes)} bytes, as their shape says, from a whole number"
    if int(offset) + n_bytes > files[location].n_bytes:
        yield f"end at byte {int(offset) + n_bytes:,} of {location}", f"at most {files[location].n_bytes:,}"


def _faults_of_ends(values: Any, tensors: Iterable[TensorSpec], weights: Mapping[bytes, Shape], what: str) -> Faults:
    """Faults of the inputs or outputs. Old graphs list their weights among the inputs."""
    promised = {tensor.name.encode(): tensor for tensor in tensors}
    found = [value for value in values if value.name not in weights]
    if sorted(value.name for value in found) != sorted(promised):
        yield f"the {what}s are {quoted([_text(value.name) for value in found])}", ", ".join(t.name for t in promised.values())
    for value in found:
        tensor, kind = promised[value.name], value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        if kind.elem_type != _TYPES[tensor.dtype]:
            yield f"the {what} {tensor.name} has the element type {kind.elem_type}", f"{_TYPES[tensor.dtype]} ({tensor.dtype})"
        wanted = (-1, *tensor.shape)
        fits = len(sizes) == len(wanted) and all(-1 in pair or pair[0] == pair[1] for pair in zip(sizes, wanted, strict=True))
        if not fits or sizes[0] != -1:
            yield f"the {what} {tensor.name} has the shape {quoted(sizes)}", f"{list(wanted)}, where -1 is any length"


def _faults_of_nodes(graph: Any, weights: Mapping[bytes, Shape], budget: int) -> Faults:
    constants = _Constants(weights)
    known = {b"", *weights, *(value.name for value in graph.input)}
    for node in graph.node:
        yield from _faults_of_node(node, known)
        known.update(node.output)
        yield from constants.add(node)
    if constants.values > budget:
        yield f"the weights have {_short(constants.values)} values", f"at most {budget:,}, for files of this size"
    if missing := [value.name for value in graph.output if value.name not in known]:
        yield f"no node makes the output {quoted(_text(missing[0]))}", "a node for each output"


def _faults_of_node(node: Any, known: set[bytes]) -> Faults:
    """Faults of a node, where `known` are the values that it may read."""
    operator, given, made = node.op_type, list(node.input), [name for name in node.output if name]
    if node.domain not in _STANDARD:
        yield f"the operator {quoted(_text(operator))} is of {quoted(_text(node.domain))}", "operators of the ONNX standard"
    if operator not in _OPERATORS:
        yield f"the operator {quoted(_text(operator))} is not allowed in a bundle", f"one of {', '.join(sorted(OPERATORS))}"
    for attribute in node.attribute:
        if len(attribute.ListFields()) > 1:  # the schema has its name, and what it may not hold
            yield f"the attribute {quoted(_text(attribute.name))} of {_text(operator)} is no number or text", "plain values"
    if unknown := [name for name in given if name not in known]:
        yield (
            f"{_text(operator)} reads {quoted(_text(unknown[0]))}, which no node before it makes",
            "nodes in the order of their run",
        )
    if not known.isdisjoint(made) or len(set(made)) < len(made):
        yield f"{_text(operator)} makes {quoted([_text(name) for name in made])} a second time", "one node for each value"


class _Constants:
    """The weights, and what nodes make of weights alone. ONNX Runtime computes that when it loads a graph; packed weights need it.

    None of the operators that may do so can make a large tensor of small ones.
    """

    def __init__(self, weights: Mapping[bytes, Shape]) -> None:
        self._shapes: dict[bytes, Shape | None] = dict(weights)
        """The shapes of the constants; None if only their number of values is known."""
        self._counts = {name: math.prod(shape) for name, shape in weights.items()}
        self.values = sum(self._counts.values())
        """Number of values of all constants."""

    def add(self, node: Any) -> Faults:
        """Add what a node makes, if it reads constants alone; its faults."""
        given = [name for name in node.input if name]
        if not all(name in self._counts for name in given):
            return
        operator, shapes = _text(node.op_type), [self._shapes[name] for name in given]
        if not given or operator not in ("Mul", *REARRANGING):
            yield f"{operator} reads weights alone", f"Mul, {', '.join(REARRANGING)}; other constants are folded by the exporter"
        shape, count = shapes[0] if operator == "Cast" else None, self._counts[given[0]]
        if operator == "Mul":
            shape = next((one for one in shapes if one is not None and all(_spreads(other, one) for other in shapes)), None)
            if shape is None:
                yield f"Mul of weights of the shapes {quoted(shapes)} makes larger weights", "the shape of one of them"
            count = math.prod(shape or ())
        self.values += count
        self._shapes.update(dict.fromkeys(node.output, shape))
        self._counts.update(dict.fromkeys(node.output, count))


REARRANGING = ("Cast", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose outputs have no more values together than their first input."""


def _spreads(small: Shape | None, large: Shape) -> bool:
    """True if a tensor of the shape `small` can be broadcast to the shape `large` without making it larger."""
    if small is None or len(small) > len(large):
        return False
    return all(one in (1, other) for one, other in zip(small[::-1], large[::-1], strict=False))


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**18 else "very many"
