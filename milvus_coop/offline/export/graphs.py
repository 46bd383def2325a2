"""Export of a PyTorch module to an ONNX graph with named inputs and outputs and a dynamic batch axis, and runs of the graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import onnxruntime
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from milvus_coop.bundle.graphs import REARRANGING
from milvus_coop.types import Array

OPSET = 20
"""The newest operator set that TensorRT 10 and ONNX Runtime 1.20 both read."""

BATCH = torch.export.Dim("batch", min=1, max=4096)


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, object]] | None = None,
    stored: Callable[[Array], str | None] | None = None,
) -> onnx.ModelProto:
    """Export `module` with the dynamo exporter. The weights stay inside the returned model, except those that are stored elsewhere.

    Args:
        module: the module in eval mode. It is called with `inputs` by position.
        inputs: example tensors by name. Use a batch of 2 or more, since the exporter takes a size of 1 for a constant.
        outputs: output names. The name `embedding` collides with the graph node of the first `nn.Embedding`.
        dynamic: dynamic axes by input name, as axis -> `torch.export.Dim`. Axis 0 is the batch and always dynamic.
        stored: a function that names the weight that a constant stands for, or returns None. The model then has the name as the
            location of an external tensor; see `pack_graphs`.
    """
    extra = dynamic or {}
    shapes = tuple({0: BATCH, **extra.get(name, {})} for name in inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        for talker in ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding"):
            logging.getLogger(talker).setLevel(logging.ERROR)  # "torchvision is not installed", "Skipping constant folding"
        program = torch.onnx.export(
            module.eval(),
            tuple(value.clone() for value in inputs.values()),  # a tensor that is given twice would become one input
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned no model")
    if stored is None:
        _fold(program.model)
    else:  # folding would compute with the stand-ins of stored weights
        _leave_out(program.model.graph.initializers, stored)
    model: onnx.ModelProto = program.model_proto
    _drop_debug_text(model)
    return model


def _leave_out(constants: Mapping[str, Any], stored: Callable[[Array], str | None]) -> None:
    for name, constant in constants.items():
        tensor = constant.const_value
        if tensor is not None and (location := stored(tensor.numpy())) is not None:
            constant.const_value = onnx_ir.ExternalTensor(location, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name)


def _fold(model: Any) -> None:
    """Compute what nodes make of weights alone, such as the embeddings of all positions; a bundle may not have such nodes.

    The exporter does this too, but only for weights of up to 8192 values. What packing may rearrange stays as it is.
    """
    optimizer.fold_constants(model, output_size_limit=2**31, should_fold=lambda node: _leads_to_folding(node) or None)
    optimizer.remove_unused_nodes(model)


def _leads_to_folding(node: Any) -> bool:
    """True if a node, or one that reads what it makes, makes something of weights alone in a way that a bundle may not have."""
    if not all(map(_is_constant, node.inputs)):
        return False
    return node.op_type not in _PACKING or any(_leads_to_folding(reader) for made in node.outputs for reader in made.consumers())


def _is_constant(value: Any) -> bool:
    if value is None or value.const_value is not None:
        return True
    maker = value.producer()
    return maker is not None and bool(maker.inputs) and all(map(_is_constant, maker.inputs))


_PACKING = frozenset({"Mul", *REARRANGING})


def _drop_debug_text(model: onnx.ModelProto) -> None:
    """Remove the metadata of nodes, which quotes source paths of the exporting machine and doubles the file size."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]


def open_session(model: onnx.ModelProto | Path, threads: int = 2) -> onnxruntime.InferenceSession:
    """A CPU session for a model in memory or for a file with external weights. The online side has its own sessions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_graph(session: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
