"""Converts the heavy layers of a plain float32 graph to float16. Inputs and outputs keep their types.

TensorRT 11 takes the precision from the graph and not from a builder flag. `onnxruntime.transformers.float16` converts graphs too,
but it rounds to float16 between any two layers that it leaves in float32. That turns a normalisation's epsilon of 1e-12 into zero,
and the probabilities of coop-small's cross-encoder into NaN. Here, values between float32 layers stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from milvus_coop.errors import BundleInvalidError

HEAVY = frozenset({"MatMul", "Conv", "ConvTranspose", "Einsum"})
"""The operators that take most of the time; they are computed in float16. Gemm is not among them, because exports use it only for
heads, which work on one vector per item."""

# fmt: off
CHEAP = frozenset({
    "Abs", "Add", "Clip", "Concat", "Div", "Elu", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mish", "Mul", "Neg", "Pad", "Relu", "Reshape", "Sigmoid",
    "Slice", "Split", "Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""Operators in the precision of the layers around them: float16 between heavy layers, float32 before a softmax, norm or output.

Operators in neither list (norms, softmax, sums, roots) are computed in float32. So attention scores with their masks, and the
residual stream in front of a norm, are in float32 too; float16 is known to overflow there.
"""

_LARGEST = float(np.finfo(np.float16).max)


def to_half(model: ModelProto) -> None:
    """Convert the model in place.

    Args:
        model: a float32 model with folded constants (see `materialise.fold_constants`).

    Raises:
        BundleInvalidError: the model has control flow (If, Loop, Scan), or values whose type ONNX cannot infer.
    """
    graph = model.graph
    converter = _Converter(graph, _float_values(model), _bound_for_full(graph))
    nodes = [new for node in graph.node for new in converter.convert(node)]
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    constants = [tensor for tensor in (*graph.initializer, *converter.half_constants) if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


class _Converter:
    """Walks a graph in order, and keeps the name of every float value in each precision."""

    def __init__(self, graph: GraphProto, floats: set[str], bound_for_full: set[str]) -> None:
        self.half_constants: list[TensorProto] = []
        self._bound_for_full = bound_for_full
        self._floats = floats
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._born_half: set[str] = set()
        self._names: dict[tuple[str, bool], str] = {}  # (value, half?) -> its name in that precision

    def convert(self, node: NodeProto) -> Iterator[NodeProto]:
        """The casts that the node's inputs need, and then the node in its precision."""
        half = self._is_half(node)
        for i, name in enumerate(node.input):
            if name in self._floats:
                yield from self._provide(name, half)
                node.input[i] = self._names.get((name, half), name)
        yield node
        for i, name in enumerate(node.output):
            if half and name in self._floats:
                self._born_half.add(name)
                if name in self._outputs:  # the graph's output keeps name and type; the half value gets another name
                    node.output[i] = self._names[name, True] = f"{name}.fp16"
                    self._names[name, False] = name
                    yield _cast(f"{name}.fp16", name, TensorProto.FLOAT)

    def _is_half(self, node: NodeProto) -> bool:
        is_table = node.op_type == "Gather" and node.input[0] in self._constants
        follows = node.op_type in CHEAP and not self._born_half.isdisjoint(node.input)
        return node.op_type in HEAVY or is_table or (follows and not self._bound_for_full.issuperset(node.output))

    def _provide(self, name: str, half: bool) -> Iterator[NodeProto]:
        """Set `self._names[name, half]`, with a cast or a converted constant, if the value does not have that precision already."""
        if (name, half) in self._names or (name in self._born_half) == half:
            return
        other = self._names[name, half] = f"{name}.fp16" if half else f"{name}.fp32"
        if name in self._constants:
            values = np.clip(numpy_helper.to_array(self._constants[name]), -_LARGEST, _LARGEST)
            self.half_constants.append(numpy_helper.from_array(values.astype(np.float16), other))
        else:
            yield _cast(name, other, TensorProto.FLOAT16 if half else TensorProto.FLOAT)


def _bound_for_full(graph: GraphProto) -> set[str]:
    """Names of the values that only float32 layers read, directly or through cheap ones. Outputs of the graph count as float32."""
    read_in_half: set[str] = set()
    produced: set[str] = set()
    for node in reversed(graph.node):
        produced.update(node.output)
        if node.op_type in HEAVY or (node.op_type in CHEAP and not read_in_half.isdisjoint(node.output)):
            read_in_half.update(node.input)
    return produced - read_in_half


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], f"cast {target}", to=to)


def _float_values(model: ModelProto) -> set[str]:
    """Names of all float32 values. For the inference of types, weights are replaced by inputs, so that it works for any model size.

    Raises:
        BundleInvalidError: see `to_half`.
    """
    for node in model.graph.node:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise BundleInvalidError(f"{node.op_type} node '{node.name}' is control flow", expected="a graph without it, for fp16")
    source = model.graph
    light = GraphProto(name="types", node=source.node, input=source.input, output=source.output)
    for tensor in source.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            light.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            light.initializer.append(tensor)
    inferred = infer_shapes(helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    if unknown := [node.name or node.op_type for node in source.node for name in node.output if name and name not in types]:
        raise BundleInvalidError(
            f"ONNX cannot infer the type that node '{unknown[0]}' returns", expected="a graph that passes onnx.checker"
        )
    return {name for name, kind in types.items() if kind == TensorProto.FLOAT}
