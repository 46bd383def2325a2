"""Turns a bundle's packed graph into a plain, self-contained ONNX file that TensorRT and other runtimes can read.

TensorRT parses the packed form but cannot build it ("Quantized constant is only allowed before DQ"). So everything that depends
only on constants is computed here once: weights and products of weights become float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from milvus_coop.bundle.folder import Bundle
from milvus_coop.bundle.wire import wire_of
from milvus_coop.errors import BundleInvalidError
from milvus_coop.serving.plans.joined import join_requests
from milvus_coop.serving.plans.precision import to_half
from milvus_coop.types import Array

GraphPrecision = Literal["fp32", "fp16"]

INLINE_BYTES = 1_900_000_000
"""Maximum size of weights inside the ONNX file in bytes; larger weights go into a second file. A protobuf message ends at 2 GiB."""

_STANDARD = {"", "ai.onnx"}
_DYNAMIC_INT8 = {"DynamicQuantizeLinear", "MatMulInteger"}  # TensorRT supports neither
_RANDOM = {"RandomNormal", "RandomUniform"}  # the operators without inputs whose result is no constant


def materialise(
    bundle: Bundle,
    graph: str,
    out: Path,
    precision: GraphPrecision = "fp32",
    *,
    inline_bytes: int = INLINE_BYTES,
    joined: bool = False,
) -> Path:
    """Write one graph of a bundle as a plain ONNX file.

    Args:
        bundle: the bundle with the graph.
        graph: name of the graph, for example `text_encoder`.
        out: the file to write; its folder is created. Weights beyond `inline_bytes` go into `<out>.data` beside it.
        precision: `fp16` computes the heavy layers in half precision. Inputs and outputs are the same in both precisions.
        inline_bytes: see `INLINE_BYTES`.
        joined: let the graph read the requests that Triton joins; see `joined`.

    Returns:
        `out`.

    Raises:
        BundleInvalidError: the graph is missing or broken, or uses operators outside the ONNX standard.
    """
    model = plain_model(bundle, graph)
    if precision == "fp16":
        to_half(model)
    if joined and (wire := wire_of(bundle.spec.graph(graph))):
        join_requests(model, wire)
    out.parent.mkdir(parents=True, exist_ok=True)
    data = out.with_name(f"{out.name}.data")
    data.unlink(missing_ok=True)  # onnx appends to it
    too_large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > inline_bytes
    onnx.save(model, str(out), save_as_external_data=too_large, location=data.name)
    return out


def plain_model(bundle: Bundle, graph: str) -> ModelProto:
    """The graph in memory, with float32 weights inside and constants folded.

    Raises:
        BundleInvalidError: see `materialise`.
    """
    path = bundle.path(bundle.spec.graph(graph).file)
    try:
        model = onnx.load(str(path), load_external_data=False)
        read_weights(model, bundle)
    except Exception as exc:  # protobuf, onnx and the file system each raise their own
        raise BundleInvalidError(f"{path} is not a readable ONNX graph: {exc}", run="copy the bundle again") from exc
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _STANDARD})
    if foreign:
        raise BundleInvalidError(f"{path} uses {', '.join(foreign)}", expected="operators of the ONNX standard only")
    if any(node.op_type in _DYNAMIC_INT8 for node in model.graph.node):
        raise BundleInvalidError(
            f"{path} computes in int8 with dynamic scales, made for ONNX Runtime on CPUs",
            expected="a bundle in fp32 or fp16",
            run="milvus-coop bundle convert MODEL --precision fp16",
        )
    widen_tables(model)
    fold_constants(model)
    return model


def widen_tables(model: ModelProto) -> None:
    """Make the int8 tables float32 from which the graph looks rows up; their values stay. TensorRT looks nothing up in int8."""
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    for tensor in model.graph.initializer:
        if tensor.name in tables and tensor.data_type == TensorProto.INT8:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def read_weights(model: ModelProto, bundle: Bundle) -> None:
    """Put external weights inside the model. onnx's own reader refuses hard links, which uv makes when it installs packages."""
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place["location"] not in bundle.spec.files:
                raise ValueError(f"'{tensor.name}' is in '{place['location']}', which is not a file of the bundle")
            with bundle.path(place["location"]).open("rb") as file:
                file.seek(int(place["offset"]))
                tensor.raw_data = file.read(int(place["length"]))
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT


def fold_constants(model: ModelProto) -> None:
    """Replace every node that depends only on constants with its result, and remove values that are not read any more."""
    graph = model.graph
    constant = {tensor.name for tensor in graph.initializer}
    folded, kept = [], []
    for node in graph.node:
        if node.op_type not in _RANDOM and constant.issuperset(name for name in node.input if name):
            folded.append(node)
            constant.update(node.output)
        else:
            kept.append(node)
    read = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    wanted = [name for node in folded for name in node.output if name in read]
    results = _evaluate(model, folded, wanted) if wanted else []
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    constants += [numpy_helper.from_array(value, name) for name, value in zip(wanted, results, strict=True)]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)


def _evaluate(model: ModelProto, nodes: list[NodeProto], wanted: list[str]) -> list[Array]:
    """The values named in `wanted`, computed by `nodes` from the model's initialisers with ONNX's reference evaluator in numpy."""
    needed = {name for node in nodes for name in node.input}
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    constants = GraphProto(name="constants", node=nodes, output=outputs)
    constants.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part = helper.make_model(constants, opset_imports=model.opset_import, ir_version=model.ir_version)
    return list(ReferenceEvaluator(part).run(None, {}))
