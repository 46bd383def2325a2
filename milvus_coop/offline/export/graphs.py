"""Export of a PyTorch module to an ONNX graph with named inputs and outputs and a dynamic batch axis, and runs of the graph."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from milvus_coop.types import Array

OPSET = 20
"""The newest operator set that TensorRT 10 and ONNX Runtime 1.20 both read."""

BATCH = torch.export.Dim("batch", min=1, max=4096)


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, object]] | None = None,
) -> onnx.ModelProto:
    """Export `module` with the dynamo exporter. The weights stay inside the returned model.

    Args:
        module: the module in eval mode. It is called with `inputs` by position.
        inputs: example tensors by name. Use a batch of 2 or more, since the exporter takes a size of 1 for a constant.
        outputs: output names. The name `embedding` collides with the graph node of the first `nn.Embedding`.
        dynamic: dynamic axes by input name, as axis -> `torch.export.Dim`. Axis 0 is the batch and always dynamic.
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
    # The exporter does not fold large weights, such as positions of a true size; a bundle may not compute with weights alone.
    optimizer.fold_constants(program.model, should_fold=lambda _: True, output_size_limit=sys.maxsize)
    model: onnx.ModelProto = program.model_proto
    _drop_debug_text(model)
    return model


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
