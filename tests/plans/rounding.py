"""A float16 graph as a GPU computes it, for ONNX Runtime on a CPU.

ONNX Runtime has no float16 layers on CPUs: it computes them in float32 and drops the casts around them, at every optimisation
level, so that nothing is ever rounded. Here every float16 value is rounded, to the bit, behind a layer computed in float32, which
is what tensor cores do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from milvus_coop.offline.export.graphs import run_graph
from milvus_coop.types import Array


def run_rounded(source: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a graph, with every value that the graph holds in float16 rounded to it."""
    model = infer_shapes(onnx.load(str(source)) if isinstance(source, Path) else source)  # a copy, with types
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    half = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    nodes = [new for node in graph.node for new in _rounded(node, half)]
    constants = [_widened(tensor) for tensor in graph.initializer]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return run_graph(onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]), feeds)


def _widened(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(values.astype(np.float32), tensor.name) if values.dtype == np.float16 else tensor


def _rounded(node: onnx.NodeProto, half: set[str]) -> list[onnx.NodeProto]:
    nodes = [node]
    for i, name in enumerate(node.output):
        if name in half:
            node.output[i] = f"{name}.raw"
            nodes.append(helper.make_node("Cast", [f"{name}.raw"], [f"{name}.short"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Identity", [f"{name}.short"], [f"{name}.kept"]))  # without it the pair is dropped
            nodes.append(helper.make_node("Cast", [f"{name}.kept"], [name], to=TensorProto.FLOAT))
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
    return nodes
