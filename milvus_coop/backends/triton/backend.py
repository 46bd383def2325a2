"""`TritonBackend`: a bundle's graphs as the models of a Triton server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from milvus_coop.backends.base import check_inputs, run_in_batches
from milvus_coop.backends.triton.failures import OVERLOADED, status_of, translate
from milvus_coop.backends.triton.options import TritonOptions
from milvus_coop.bundle.spec import BundleSpec, GraphSpec
from milvus_coop.errors import BackendTimeoutError, BundleMismatchError, InvalidArgumentError
from milvus_coop.types import Array

RETRY_AFTER_S = 0.1
"""A request that met a closed connection is sent once more after this; inference changes nothing, so that is safe."""


class TritonBackend:
    """Runs a bundle on a Triton server. Safe to share between threads.

    A server that serves another bundle is refused when a model is first used, and again after every loss of the connection.
    """

    def __init__(self, spec: BundleSpec, options: TritonOptions) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            spec: the bundle that the server must serve.
            options: where it is and how to talk to it.
        """
        self._spec = spec
        self._options = options
        self._checked: set[str] = set()
        self._pool = ThreadPoolExecutor(options.in_flight, "milvus-coop-triton")
        try:
            self._client = triton.InferenceServerClient(
                options.address,
                ssl=options.tls,
                root_certificates=_path(options.ca_file),
                private_key=_path(options.key_file),
                certificate_chain=_path(options.cert_file),
            )
        except (OSError, ValueError) as exc:
            raise InvalidArgumentError(f"no channel to {options.address}: {exc}") from exc

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle that is run."""
        return self._spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Backend.run`. `timeout_s` holds for the whole call, retries and all parts of a large batch included.

        Raises:
            BackendInputError: an array does not fit the spec.
            BackendTimeoutError: not all was answered in time.
            BackendUnavailableError: the server or the model is away, overloaded or broken.
            BundleMismatchError: the server serves another bundle.
        """
        spec = self._spec.graph(graph)
        batch = check_inputs(spec, inputs)
        limit_s = self._options.timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + limit_s
        self._check(graph, deadline_s)

        def run_one(part: Mapping[str, Array]) -> dict[str, Array]:
            return self._infer(spec, part, deadline_s, limit_s)

        if batch <= spec.max_batch:
            return run_in_batches(spec, inputs, batch, run_one)
        return run_in_batches(spec, inputs, batch, run_one, map_parts=self._pool.map)

    def load(self, graphs: Sequence[str]) -> None:
        """Check that the server serves these models of this bundle; see `run` for the errors."""
        deadline_s = time.monotonic() + self._options.timeout_s
        for graph in graphs:
            self._check(graph, deadline_s)

    def close(self) -> None:
        """Close the connection; requests under way are given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _check(self, graph: str, deadline_s: float) -> None:
        if graph in self._checked:
            return
        config = self._call(graph, deadline_s, self._options.timeout_s, self._client.get_model_config, graph).config
        served = {key: value.string_value for key, value in config.parameters.items()}
        if served.get("fingerprint") != self._spec.fingerprint:
            raise BundleMismatchError(
                f"Triton at {self._options.address} serves {served.get('bundle', 'another model')} ({served.get('fingerprint')})",
                expected=f"{self._spec.label} ({self._spec.fingerprint})",
                run="milvus-coop triton export with this bundle, or --bundle with that one",
            )
        self._checked.add(graph)

    def _infer(self, graph: GraphSpec, arrays: Mapping[str, Array], deadline_s: float, limit_s: float) -> dict[str, Array]:
        inputs = []
        for name, array in arrays.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            inputs.append(tensor.set_data_from_numpy(np.ascontiguousarray(array)))
        result = self._call(graph.name, deadline_s, limit_s, self._client.infer, graph.name, inputs)
        outputs = {tensor.name: result.as_numpy(tensor.name) for tensor in graph.outputs}
        # A scalar per item travels as one value: see config.pbtxt.
        return {t.name: outputs[t.name] if t.shape else outputs[t.name].reshape(-1) for t in graph.outputs}

    def _call(self, model: str, deadline_s: float, limit_s: float, method: Any, *arguments: Any) -> Any:
        """One request, sent once more if it met a lost connection and there is time."""
        may_retry = True
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise BackendTimeoutError(f"{model} on Triton at {self._options.address} did not answer within {limit_s:.3g} s")
            try:
                return method(*arguments, headers=self._options.metadata, client_timeout=left_s)
            except InferenceServerException as exc:
                is_gone = status_of(exc) == "UNAVAILABLE" and OVERLOADED not in str(exc.message()).lower()
                if is_gone:
                    self._checked.clear()
                if not (may_retry and is_gone and left_s > 2 * RETRY_AFTER_S):
                    raise translate(exc, self._options.address, model, limit_s) from exc
            may_retry = False
            time.sleep(RETRY_AFTER_S)


def _path(path: Any) -> str | None:
    return None if path is None else str(path)
