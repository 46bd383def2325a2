"""The model that Triton's Python backend runs for the `python` platform: an ONNX graph with ONNX Runtime on the CPU.

`milvus-coop triton export` copies this file as `model.py`. It runs in Triton's own environment, so it must not import milvus_coop.
"""

from __future__ import annotations

import json
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
        self._spread = {tensor["name"] for tensor in config["input"] if tensor.get("allow_ragged_batch")}
        self._begins = json.loads(parameters.get("begins", "{}"))  # inputs that Triton's other backends add

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests in their order. Requests with equal shapes are run together. If one fails, the others do not."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for position, request in enumerate(requests):
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            shapes = tuple(array.shape[1:] for name, array in arrays.items() if name not in self._spread)
            groups[shapes].append((position, arrays))
        for group in groups.values():
            for position, response in self._answer(group):
                responses[position] = response
        return responses

    def _answer(self, group: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, Any]]:
        try:
            results = self._run([arrays for _, arrays in group])
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

    def _run(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = {}
        for name in self._inputs:
            parts = [arrays[name].reshape(-1) if name in self._spread else arrays[name] for arrays in requests]
            inputs[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
        for name, counted in self._begins.items():
            inputs[name] = np.cumsum([0, *(arrays[counted].size for arrays in requests)], dtype=np.int32)
        results = self._session.run([name for name, _ in self._outputs], inputs)
        # A scalar per item travels as one value: see config.pbtxt.
        return {
            name: a[:, None] if a.ndim == 1 and dims == [1] else a
            for (name, dims), a in zip(self._outputs, results)  # noqa: B905 - Triton's interpreter may be older than 3.10
        }
