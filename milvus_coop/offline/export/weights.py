"""Small weights in one shared file: float initialisers become int8 or fp16, with nodes that convert them back to float.

These nodes are Cast, Mul and Reshape only. ONNX Runtime folds them when it loads the graph, which then runs as fast as with float
weights. (TensorRT needs them folded before; `materialise` does that.) A table from which rows are looked up, such as the embeddings
of words, stays small in memory too: only the rows that were looked up are converted.

Equal contents are stored once, so graphs that share a tower share its bytes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from milvus_coop.types import Array

Precision = Literal["int8", "fp16", "fp32"]
Policy = Callable[[str, Array], Precision]

_ALIGNMENT = 64
_GROUP = 64  # halves the error of one scale per channel, for 6 % more bytes
_INLINE_BYTES = 1024  # smaller tensors stay inside the graph file


def pack_graphs(
    models: Iterable[tuple[str, onnx.ModelProto]],
    folder: Path,
    weights_file: str,
    policy: Policy,
    read: Callable[[str], Array] | None = None,
) -> None:
    """Write `<name>` for every model and one `weights_file` beside them.

    Args:
        models: file names and models with their weights inside. The models are changed, and are taken one at a time.
        folder: where the files go.
        weights_file: name of the shared external-data file.
        policy: (initialiser name, values) -> how to store that float32 initialiser.
        read: reads a weight that a model names as the location of an external tensor. Such weights are read one at a time.
    """
    store = _SharedFile(folder / weights_file)
    for file_name, model in models:
        _shrink(model.graph, policy, weights_file, store, read)
        onnx.save(model, str(folder / file_name))
    store.close()


def quantise_in_groups(values: Array, axis: int) -> tuple[Array, Array]:
    """Symmetric int8 of a matrix, one scale per channel and group of 64 (of all, where 64 does not divide them).

    Args:
        values: float32 of shape (n, m).
        axis: the axis of the channels: 0 for rows, 1 for columns.

    Returns:
        int8 of shape (n, groups, m / groups) for rows or (groups, n / groups, m) for columns, and float32 scales that broadcast
        against them; their product, reshaped to (n, m), restores the values with an error of at most half a scale.
    """
    rows, columns = values.shape
    length = values.shape[1 - axis]
    groups = length // _GROUP if length % _GROUP == 0 else 1
    shape = (rows, groups, columns // groups) if axis == 0 else (groups, rows // groups, columns)
    grouped = values.reshape(shape)
    scales = np.abs(grouped).max(axis=2 if axis == 0 else 1, keepdims=True) / 127.0
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    return np.clip(np.rint(grouped / scales), -127, 127).astype(np.int8), scales


def _shrink(
    graph: onnx.GraphProto, policy: Policy, weights_file: str, store: _SharedFile, read: Callable[[str], Array] | None
) -> None:
    """Move initialisers to the file, smaller where the policy says so, with nodes that give the old name its value back."""
    kept, nodes, lookups = [], [], _lookups(graph)

    def keep(values: Array, name: str) -> None:
        if values.nbytes <= _INLINE_BYTES:
            kept.append(numpy_helper.from_array(values, name))
            return
        kept.append(TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype)))
        _point_to(kept[-1], weights_file, store.add(values), values.nbytes)

    for tensor in graph.initializer:
        name, values = tensor.name, _values(tensor, read)
        tensor.ClearField("raw_data")
        precision = policy(name, values) if values.dtype == np.float32 else "fp32"
        if precision == "fp32":
            keep(values, name)
        elif precision == "fp16":
            keep(values.astype(np.float16), f"{name}.half")
            if name in lookups:
                _look_up_first(graph, name, ["half"])
            else:
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
        else:
            matrix = values.reshape(len(values), -1)  # the weights of a convolution become one row per output channel
            small, scales = quantise_in_groups(matrix, _channel_axis(graph, name))
            parts = {"int8": small, "scale": scales, "shape": np.array(values.shape[name in lookups :], np.int64)}
            for part, content in parts.items():
                keep(content, f"{name}.{part}")
            if name in lookups:
                _look_up_first(graph, name, ["int8", "scale"])
                continue
            wide, scaled = f"{name}.wide", f"{name}.scaled"
            nodes.append(helper.make_node("Cast", [f"{name}.int8"], [wide], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [wide, f"{name}.scale"], [scaled]))
            nodes.append(helper.make_node("Reshape", [scaled, f"{name}.shape"], [name]))
    body = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend([*nodes, *body])


def _lookups(graph: onnx.GraphProto) -> set[str]:
    """The matrices of which the graph reads nothing but rows."""
    users: dict[str, list[bool]] = defaultdict(list)
    for node in graph.node:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        for place, name in enumerate(node.input):
            users[name].append(node.op_type == "Gather" and axis == 0 and place == 0)
    shown = {output.name for output in graph.output}
    return {t.name for t in graph.initializer if len(t.dims) == 2 and all(users[t.name]) and t.name not in shown}


def _look_up_first(graph: onnx.GraphProto, name: str, parts: Sequence[str]) -> None:
    """Look rows up in the small parts of a table, and convert them to float afterwards."""
    nodes = []
    for node in graph.node:
        if node.op_type != "Gather" or node.input[0] != name:
            nodes.append(node)
            continue
        rows, ids = node.output[0], node.input[1]
        nodes += [helper.make_node("Gather", [f"{name}.{part}", ids], [f"{rows}.{part}"]) for part in parts]
        if parts == ["half"]:
            nodes.append(helper.make_node("Cast", [f"{rows}.half"], [rows], to=TensorProto.FLOAT))
            continue
        nodes.append(helper.make_node("Cast", [f"{rows}.int8"], [f"{rows}.wide"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{rows}.wide", f"{rows}.scale"], [f"{rows}.scaled"]))
        nodes.append(helper.make_node("Shape", [ids], [f"{rows}.ids"]))
        nodes.append(helper.make_node("Concat", [f"{rows}.ids", f"{name}.shape"], [f"{rows}.shape"], axis=0))
        nodes.append(helper.make_node("Reshape", [f"{rows}.scaled", f"{rows}.shape"], [rows]))
    del graph.node[:]
    graph.node.extend(nodes)


def _values(tensor: TensorProto, read: Callable[[str], Array] | None) -> Array:
    if read is None or tensor.data_location != TensorProto.EXTERNAL:
        values: Array = numpy_helper.to_array(tensor)
        return values
    return read(next(entry.value for entry in tensor.external_data if entry.key == "location"))


def _channel_axis(graph: onnx.GraphProto, name: str) -> int:
    """The channel axis: rows for a lookup table, a convolution and Gemm with transB; columns for the right side of a MatMul."""
    return int(any(name in node.input and node.op_type == "MatMul" for node in graph.node))


def _point_to(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


class _SharedFile:
    """Appends arrays at aligned offsets. Bytes that were added before are not written again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._offsets: dict[str, int] = {}

    def add(self, values: Array) -> int:
        raw: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)  # also for scalars, and without a copy
        digest = hashlib.sha256(raw).hexdigest()
        if digest not in self._offsets:
            end = self._file.tell()
            self._file.write(b"\0" * (-end % _ALIGNMENT))
            self._offsets[digest] = self._file.tell()
            self._file.write(raw)
        return self._offsets[digest]

    def close(self) -> None:
        self._file.close()
