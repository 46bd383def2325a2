"""One client, several Triton servers behind one name: here two small gRPC servers that speak its protocol and count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from milvus_coop.bundle import TEXT_ENCODER, load_bundle
from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.models.backends.triton.backend import TritonBackend
from milvus_coop.models.backends.triton.options import TritonOptions
from tests.servers.milvus import free_ports
from tests.waiting import wait_until


class CountingServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers every request with zeros, and counts them."""

    def __init__(self, spec: BundleSpec, port: int) -> None:
        self.answered = 0
        self._spec = spec
        self._port = port
        self._server: Any = None

    def __enter__(self) -> CountingServer:
        self._server = grpc.server(ThreadPoolExecutor(4))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(f"127.0.0.1:{self._port}") == self._port
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.answered += 1
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        batch = request.inputs[0].shape[0]
        for tensor in self._spec.graph(request.model_name).outputs:
            shape = [batch, *(tensor.shape or (1,))]
            shape = [request.inputs[0].shape[1] if n == -1 else n for n in shape]
            answer.outputs.add(name=tensor.name, datatype="FP32", shape=shape)
            answer.raw_output_contents.append(np.zeros(shape, np.float32).tobytes())
        return answer


@pytest.fixture
def spec() -> BundleSpec:
    return load_bundle("coop-small").spec


@pytest.fixture
def ports() -> list[int]:
    return free_ports(2)


@pytest.fixture
def backend(spec: BundleSpec, ports: list[int]) -> Iterator[TritonBackend]:
    """A client of an address that stands for both, as a headless service's name does."""
    both = ",".join(f"127.0.0.1:{port}" for port in ports)
    backend = TritonBackend(spec, TritonOptions(f"ipv4:{both}", timeout_s=60))
    yield backend
    backend.close()


def encode(backend: TritonBackend, times: int) -> None:
    ids = np.ones((1, 8), dtype=np.int64)
    for _ in range(times):
        backend.run(TEXT_ENCODER, {"input_ids": ids, "attention_mask": ids})


def encode_until(backend: TritonBackend, condition: Callable[[], bool]) -> None:
    """Ask again and again until the condition holds."""
    wait_until(lambda: encode(backend, 1) or condition())  # type: ignore[func-returns-value]


def test_servers_take_turns(spec: BundleSpec, ports: list[int], backend: TritonBackend) -> None:
    with CountingServer(spec, ports[0]) as one, CountingServer(spec, ports[1]) as other:
        encode_until(backend, lambda: bool(one.answered and other.answered))  # the second connection may come after the first
        before = one.answered, other.answered
        encode(backend, 40)
    first, second = one.answered - before[0], other.answered - before[1]
    assert first + second == 40
    assert abs(first - second) <= 1


def test_one_goes_and_one_comes(spec: BundleSpec, ports: list[int], backend: TritonBackend) -> None:
    with ExitStack() as stack:
        stays = stack.enter_context(CountingServer(spec, ports[0]))
        with CountingServer(spec, ports[1]) as goes:
            encode_until(backend, lambda: bool(stays.answered and goes.answered))
        before = stays.answered
        encode(backend, 20)  # no error: a request that met the closed connection was sent again
        assert stays.answered == before + 20
        comes = stack.enter_context(CountingServer(spec, ports[1]))
        encode_until(backend, lambda: comes.answered > 0)
