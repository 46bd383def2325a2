"""The model that Triton's Python backend runs for the `python` platform: an ONNX graph with ONNX Runtime on the CPU.

`milvus-coop triton export` copies this file as `model.py`. It runs in Triton's own environment, so it must not import milvus_coop.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # provided by Triton


class TritonPythonModel:
    """One ONNX graph. Requests of one `execute` call are run together if possible."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph that the model's configuration names."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(args["model_repository"]) / args["model_version"] / parameters["graph"]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [(tensor["name"], [int(n) for n in tensor["dims"]]) for tensor in config["output"]]
        self._max_batch = int(config["max_batch_size"])
        self._spread = json.loads(parameters.get("spread", "{}"))
        dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        self._dtypes = {tensor.name: dtypes[tensor.type] for tensor in self._session.get_inputs() if tensor.type in dtypes}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests in their order. Requests with equal shapes are run together. If one fails, the others do not."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for position, request in enumerate(requests):
            arrays = self._unpack({name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs})
            groups[tuple(array.shape[1:] for array in arrays.values())].append((position, arrays))
        for group in groups.values():
            for position, response in self._answer(group):
                responses[position] = response
        return responses

    def _unpack(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """The inputs of the graph. Values that were spread over the rows of a request become rows again: see milvus_coop.bundle.wire."""
        unpacked = {}
        for name, array in arrays.items():
            if name in self._spread:
                shape = [arrays[n].shape[1] if isinstance(n, str) else n for n in self._spread[name]]
                size, n = math.prod(shape), len(array)
                rows = array if array.shape[1] >= size else np.broadcast_to(array.reshape(-1)[:size], (n, size))
                array = rows.reshape(n, *shape)
            unpacked[name] = array.astype(self._dtypes.get(name, array.dtype), copy=False)
        return unpacked

    def _answer(self, group: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, Any]]:
        try:
            together = {name: np.concatenate([arrays[name] for _, arrays in group]) for name in self._inputs}
            results = self._run(together)
        except Exception as exc:  # return the error of a single request; if there are several, run each one alone
            if len(group) == 1:
                error = pb_utils.TritonError(f"{type(exc).__name__}: {exc}")
                return [(group[0][0], pb_utils.InferenceResponse(error=error))]
            return [answer for item in group for answer in self._answer([item])]
        answers = []
        start = 0
        for position, arrays in group:
            end = start + len(arrays[self._inputs[0]])
            tensors = [pb_utils.Tensor(name, np.ascontiguousarray(result[start:end])) for name, result in results.items()]
            answers.append((position, pb_utils.InferenceResponse(output_tensors=tensors)))
            start = end
        return answers

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        total = len(inputs[self._inputs[0]])
        names = [name for name, _ in self._outputs]
        starts = range(0, total, self._max_batch)
        parts = [self._session.run(names, {k: v[i : i + self._max_batch] for k, v in inputs.items()}) for i in starts]
        joined = [np.concatenate(columns) for columns in zip(*parts)]  # noqa: B905 - Triton's interpreter may be older than 3.10
        # A scalar per item travels as one value: see config.pbtxt.
        return {name: a[:, None] if a.ndim == 1 and dims == [1] else a for (name, dims), a in zip(self._outputs, joined)}  # noqa: B905
