"""PyTorch module -> ONNX model with named inputs and outputs and a dynamic batch axis."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn

OPSET = 20
"""The newest operator set that TensorRT 10 and ONNX Runtime 1.20 both read."""

BATCH = torch.export.Dim("batch", min=1, max=4096)


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, object]] | None = None,
) -> onnx.ModelProto:
    """Export `module` with the dynamo exporter; weights stay inside the returned model.

    Args:
        module: called with `inputs` by position, in eval mode.
        inputs: example tensors by name; use a batch of 2 or more, since a size of 1 is taken for a constant.
        outputs: output names. Not `embedding`: it collides with the graph node of the first `nn.Embedding`.
        dynamic: per input name, axis -> `torch.export.Dim`, beside axis 0, which is always the batch.
    """
    extra = dynamic or {}
    shapes = tuple({0: BATCH, **extra.get(name, {})} for name in inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        for talker in ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding"):
            logging.getLogger(talker).setLevel(logging.ERROR)  # "torchvision is not installed", "Skipping constant folding"
        program = torch.onnx.export(
            module.eval(),
            tuple(value.clone() for value in inputs.values()),  # one tensor given twice would become one input
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned no model")
    model: onnx.ModelProto = program.model_proto
    _drop_debug_text(model)
    return model


def _drop_debug_text(model: onnx.ModelProto) -> None:
    """Remove per-node metadata: it quotes source paths of the exporting machine and doubles the file."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
