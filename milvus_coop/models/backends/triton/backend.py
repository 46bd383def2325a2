"""`TritonBackend`: a bundle's graphs as the models of a Triton server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from milvus_coop.bundle.spec import BundleSpec, GraphSpec
from milvus_coop.bundle.wire import wires_of
from milvus_coop.errors import BackendTimeoutError, BackendUnavailableError, BundleMismatchError, InvalidArgumentError
from milvus_coop.models.backends.base import check_inputs, run_in_batches
from milvus_coop.models.backends.triton.failures import ConnectionLostError, NotServedError, translate
from milvus_coop.models.backends.triton.options import TritonOptions
from milvus_coop.types import Array

RETRY_AFTER_S = 0.1
"""Pause before a request that found a closed connection is sent a second time. This is safe because inference changes no state."""
PROBE_LENGTH = 8
"""Length of dynamic axes in the trial run of `load`."""
CHANNEL: dict[str, int | str] = {
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    # By default, gRPC's pauses between attempts to connect grow to two minutes; a server that is back should be used at once.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1_000,
    "grpc.min_reconnect_backoff_ms": 5_000,  # in spite of its name, the time limit of one attempt
    # A server that vanished without closing its connections is given up after 25 s, not after 15 minutes.
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 5_000,
    # A name with several addresses, such as a headless service of Kubernetes, stands for several servers: requests go to them in
    # turn. By default, gRPC stays with the first one. It resolves the name again whenever a connection ends, so it notices new
    # servers if the servers run with `--grpc-max-connection-age`.
    "grpc.lb_policy_name": "round_robin",
}

T = TypeVar("T")


class TritonBackend:
    """Runs a bundle on a Triton server. Safe to share between threads.

    Every request names the version of the models (`BundleSpec.served_version`), and a server refuses a version that it does
    not have. So an answer never comes from another bundle, whatever servers stand behind the address, and whenever they change.
    """

    def __init__(self, spec: BundleSpec, options: TritonOptions) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            spec: the bundle that the server must serve.
            options: the address of the server and the options of the connection.
        """
        self._spec = spec
        self._wires = wires_of(spec)
        self._options = options
        self._version = str(spec.served_version)
        self._is_closed = False
        self._pool = ThreadPoolExecutor(options.in_flight, "milvus-coop-triton")
        try:
            self._client = triton.InferenceServerClient(
                options.address,
                ssl=options.tls,
                root_certificates=_path(options.ca_file),
                private_key=_path(options.key_file),
                certificate_chain=_path(options.cert_file),
                channel_args=list(_channel_arguments(options.address).items()),
            )
        except (OSError, ValueError) as exc:
            raise InvalidArgumentError(f"no channel to {options.address}: {exc}") from exc

    @property
    def spec(self) -> BundleSpec:
        """The record of the bundle that is run."""
        return self._spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """See `Backend.run`. `timeout_s` limits the whole call, including a second attempt and all parts of a large batch.

        Raises:
            BackendInputError: an array does not fit the spec.
            BackendTimeoutError: the server did not answer in time.
            BackendUnavailableError: the server or the model is unreachable, overloaded or broken.
            BundleMismatchError: the server serves another bundle.
        """
        spec = self._spec.graph(graph)
        batch = check_inputs(spec, inputs)
        limit_s = self._options.timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + limit_s

        def run_one(part: Mapping[str, Array]) -> dict[str, Array]:
            return self._twice(deadline_s, lambda: self._infer(spec, part, deadline_s, limit_s))

        if self._is_closed:
            raise self._closed()
        map_parts = map if batch <= spec.max_batch else self._pool.map
        return run_in_batches(spec, inputs, batch, run_one, map_parts=map_parts, repeats=graph not in self._wires)

    def load(self, graphs: Sequence[str]) -> None:
        """Check that the server serves these models of this bundle, and run each once; see `run` for the errors.

        The trial run is needed because Triton still reports a model as ready when the process that runs it has died.
        """
        for graph in graphs:
            inputs = self._spec.graph(graph).inputs
            self.run(graph, {t.name: np.zeros((1, *(PROBE_LENGTH if n == -1 else n for n in t.shape)), t.dtype) for t in inputs})

    def close(self) -> None:
        """Close the connection and give up requests that are not answered yet."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _mismatch(self, model: str, deadline_s: float, limit_s: float) -> BundleMismatchError | None:
        """The bundle that the server has instead of this one; None if it has this version by now."""
        versions = self._call(model, deadline_s, limit_s, self._client.get_model_metadata, model).versions
        if self._version in versions:
            return None
        config = self._call(model, deadline_s, limit_s, self._client.get_model_config, model).config
        served = {key: value.string_value for key, value in config.parameters.items()}
        bundle = f"{served.get('bundle', 'another model')} ({served.get('fingerprint', 'no fingerprint')})"
        return BundleMismatchError(
            f"Triton at {self._options.address} serves {bundle} as version {', '.join(versions)} of {model}",
            expected=f"{self._spec.label} ({self._spec.fingerprint}) as version {self._version}",
            run="milvus-coop triton export with this bundle, or --bundle with that one",
        )

    def _infer(self, graph: GraphSpec, arrays: Mapping[str, Array], deadline_s: float, limit_s: float) -> dict[str, Array]:
        wire = self._wires.get(graph.name)
        inputs = []
        for name, array in (arrays if wire is None else wire.pack(arrays, max(map(len, arrays.values())))).items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            inputs.append(tensor.set_data_from_numpy(np.ascontiguousarray(array)))
        try:
            result = self._call(graph.name, deadline_s, limit_s, self._client.infer, graph.name, inputs, self._version)
        except NotServedError as exc:
            if mismatch := self._mismatch(graph.name, deadline_s, limit_s):
                raise mismatch from exc
            raise
        outputs = {tensor.name: result.as_numpy(tensor.name) for tensor in graph.outputs}
        # A scalar per item travels as one value: see config.pbtxt.
        return {t.name: outputs[t.name] if t.shape else outputs[t.name].reshape(-1) for t in graph.outputs}

    def _twice(self, deadline_s: float, action: Callable[[], T]) -> T:
        """Run `action`, and run it again if the connection was lost and there is time."""
        try:
            return action()
        except ConnectionLostError:
            if self._is_closed or deadline_s - time.monotonic() < 2 * RETRY_AFTER_S:
                raise
        time.sleep(RETRY_AFTER_S)
        return action()

    def _call(self, model: str, deadline_s: float, limit_s: float, method: Callable[..., Any], *arguments: Any) -> Any:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise BackendTimeoutError(f"{model} on Triton at {self._options.address} did not answer within {limit_s:.3g} s")
        try:
            return method(*arguments, headers=self._options.metadata, client_timeout=left_s)
        except InferenceServerException as exc:
            raise translate(exc, self._options.address, model, limit_s) from exc
        except ValueError as exc:  # gRPC raises this for a closed channel
            if self._is_closed:
                raise self._closed() from exc
            raise

    def _closed(self) -> BackendUnavailableError:
        return BackendUnavailableError(f"the connection to Triton at {self._options.address} was closed here")


def _channel_arguments(address: str) -> dict[str, int | str]:
    is_here = address.startswith(("127.", "localhost:", "[::1]"))
    # gRPC would ask the machine's HTTP proxy even for a server on the same machine.
    return CHANNEL | ({"grpc.enable_http_proxy": 0} if is_here else {})


def _path(path: Any) -> str | None:
    return None if path is None else str(path)
