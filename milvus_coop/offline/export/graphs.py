"""Export of a PyTorch module to an ONNX graph with named inputs and outputs and a dynamic batch axis, and runs of the graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxscript import ir, optimizer
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
    left_out = {} if stored is None else _stored(program.model.graph.initializers, stored)
    _fold(program.model, left_out)
    _leave_out(program.model.graph.initializers, left_out)
    model: onnx.ModelProto = program.model_proto
    _drop_debug_text(model)
    return model


def _stored(constants: Mapping[str, Any], stored: Callable[[Array], str | None]) -> dict[str, str]:
    """The places of the constants that are stored already, by name."""
    places = {name: stored(value.const_value.numpy()) for name, value in constants.items() if value.const_value is not None}
    return {name: place for name, place in places.items() if place is not None}


def _leave_out(constants: Mapping[str, Any], places: Mapping[str, str]) -> None:
    for name, place in places.items():
        if name in constants:
            tensor = constants[name].const_value
            constants[name].const_value = ir.ExternalTensor(place, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name)


def _fold(model: Any, left_out: Mapping[str, str]) -> None:
    """Compute what nodes make of weights alone, such as the embeddings of all positions; a bundle may not have such nodes.

    The exporter does this too, but only for weights of up to 8192 values. What packing may rearrange stays as it is, and so does
    what reads constants that are left out, because their values are not here.
    """

    def should_fold(node: Any) -> bool | None:
        return _leads_to_folding(node, left_out) or None

    optimizer.fold_constants(model, output_size_limit=2**31, should_fold=should_fold)
    optimizer.remove_unused_nodes(model)


def _leads_to_folding(node: Any, left_out: Mapping[str, str]) -> bool:
    """True if a node, or one that reads what it makes, makes something of weights alone in a way that a bundle may not have."""
    if not all(_is_constant(value, left_out) for value in node.inputs):
        return False
    readers = (reader for made in node.outputs for reader in made.consumers())
    return node.op_type not in _PACKING or any(_leads_to_folding(reader, left_out) for reader in readers)


def _is_constant(value: Any, left_out: Mapping[str, str]) -> bool:
    if value is None:
        return True
    if value.const_value is not None:
        return value.name not in left_out
    maker = value.producer()
    return maker is not None and bool(maker.inputs) and all(_is_constant(part, left_out) for part in maker.inputs)


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
