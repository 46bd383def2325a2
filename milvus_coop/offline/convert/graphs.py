"""Writing the modules of a bundle as ONNX files: in float32, with weights stored as float16, or computing in int8 on CPUs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from milvus_coop.bundle.folder import WEIGHTS
from milvus_coop.bundle.spec import BundleSpec, GraphSpec
from milvus_coop.offline.convert.streaming import find_stored, read_stored
from milvus_coop.offline.export.graphs import to_onnx
from milvus_coop.offline.export.weights import Precision, pack_graphs
from milvus_coop.types import Array

GraphPrecision = Literal["fp32", "fp16", "int8"]

_SMALL = 4096  # smaller tensors stay float32
EXAMPLE_LENGTH = 8
"""Length in tokens of the example text for the exporter. A bundle's text length is never below it."""


def write_graphs(makers: Mapping[str, Callable[[], nn.Module]], spec: BundleSpec, folder: Path, precision: GraphPrecision) -> None:
    """Export and write every graph of `spec` with its weights into `folder`.

    Args:
        makers: a function for each graph that makes its module.
        spec: names, shapes and dtypes of inputs and outputs.
        folder: where the files go.
        precision: `fp32`; `fp16`: weights take half the space and become float32 when a graph is loaded; `int8`: matrix products
            in int8 with dynamic scales (for ONNX Runtime on CPUs, not for TensorRT), lookup tables in float16.
    """

    def graphs() -> Iterator[tuple[str, onnx.ModelProto]]:
        for graph in spec.graphs:
            model = _exported(makers[graph.name](), graph, spec)
            yield graph.file, _quantised(model, folder) if precision == "int8" else model

    pack_graphs(graphs(), folder, WEIGHTS, _policy(precision), read_stored)


def _exported(module: nn.Module, graph: GraphSpec, spec: BundleSpec) -> onnx.ModelProto:
    examples = {
        t.name: torch.ones((2, *(EXAMPLE_LENGTH if n == -1 else n for n in t.shape)), dtype=getattr(torch, t.dtype))
        for t in graph.inputs
    }
    lengths = {spec.text_of(t.name).max_length for t in graph.inputs if -1 in t.shape}
    length = torch.export.Dim("length", min=2, max=min(lengths, default=EXAMPLE_LENGTH))
    dynamic = {t.name: {1: length} for t in graph.inputs if t.shape == (-1,)}
    return to_onnx(module, examples, [t.name for t in graph.outputs], dynamic, find_stored)


def _quantised(model: onnx.ModelProto, beside: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(dir=beside.parent, prefix="int8-") as folder, _without_advice():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        _complete(model)
        onnx.save(model, str(source), save_as_external_data=True, location="float.data")
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_stacks(model),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(str(target))


def _complete(model: onnx.ModelProto) -> None:
    """Put stored weights inside the model."""
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.numpy_helper.from_array(read_stored(tensor.external_data[0].value), tensor.name))


@contextmanager
def _without_advice() -> Iterator[None]:
    """Mute the root logger, through which the quantiser recommends to preprocess graphs with unknown shapes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _stacks(model: onnx.ModelProto) -> list[str]:
    """Names of products with a stack of matrices, one per attention head. ONNX Runtime's int8 kernels take single matrices only."""
    stacks = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 2}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stacks]


def _policy(precision: GraphPrecision) -> Callable[[str, Array], Precision]:
    def policy(_name: str, values: Array) -> Precision:
        return "fp32" if precision == "fp32" or values.size < _SMALL else "fp16"

    return policy
