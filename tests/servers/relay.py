"""A gRPC server that passes every call on to Milvus, and that a test can watch and hold back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc

from tests.waiting import Gate

THREADS = 32


class Relay(grpc.GenericRpcHandler):  # type: ignore[misc]
    """`with Relay("127.0.0.1:19530") as relay: Store(relay.uri)`.

    Args:
        upstream: host and port of Milvus.
    """

    def __init__(self, upstream: str) -> None:
        self.calls: list[tuple[str, bytes]] = []
        """Method and request of each call, in their order."""
        self.gate = Gate()
        self.holds: Callable[[str, bytes], bool] = lambda method, request: False
        """Whether a call, by its method and request, waits for the gate."""
        self._channel = grpc.insecure_channel(upstream, options=[("grpc.max_receive_message_length", -1)])
        self._server = grpc.server(ThreadPoolExecutor(THREADS))
        self._server.add_generic_rpc_handlers((self,))
        self.uri = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, details: Any) -> Any:
        """See `grpc.GenericRpcHandler`."""
        method = details.method.rpartition("/")[2]
        call = self._channel.unary_unary(details.method)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls.append((method, request))
            if self.holds(method, request):
                self.gate.wait()
            try:
                return bytes(call(request, metadata=details.invocation_metadata, timeout=context.time_remaining()))
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
                return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def __enter__(self) -> Relay:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.gate.open()
        self._server.stop(grace=0).wait()
        self._channel.close()
