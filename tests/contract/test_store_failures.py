"""Every error of pymilvus and gRPC becomes one of ours: tried with each of their classes and codes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pymilvus.exceptions
import pytest
from pymilvus.exceptions import MilvusException, ParamError
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from milvus_coop.errors import (
    CollectionNotFoundError,
    CollectionNotLoadedError,
    FilterError,
    InvalidArgumentError,
    MilvusCoopError,
    StoreAuthError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from milvus_coop.store import Store
from milvus_coop.store.failures import Attempt, translate

FOREIGN = [c for _, c in inspect.getmembers(pymilvus.exceptions, inspect.isclass) if issubclass(c, MilvusException)]
ATTEMPT = Attempt("http://milvus:19530", "search", 2.0, collection="images", filter="year >", secrets=("topsecret",))

OF_STATUS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: StoreTimeoutError,
    grpc.StatusCode.UNAUTHENTICATED: StoreAuthError,
    grpc.StatusCode.PERMISSION_DENIED: StoreAuthError,
    grpc.StatusCode.UNAVAILABLE: StoreUnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: StoreUnavailableError,
    grpc.StatusCode.CANCELLED: StoreUnavailableError,
}
CODES = [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK]


class Refuser(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC server that lets clients connect, unless told otherwise, and answers the rest with one status."""

    def __init__(self) -> None:
        self.status = grpc.StatusCode.INTERNAL
        self.refuses_connections = False
        self.calls = 0

    def service(self, details: Any) -> Any:
        greets = details.method.endswith("/Connect") and not self.refuses_connections

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if greets:
                return bytes(milvus_pb2.ConnectResponse(status=common_pb2.Status(), identifier=1).SerializeToString())
            self.calls += 1
            context.abort(self.status, "because\nof topsecret reasons")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def refuser() -> Iterator[tuple[Refuser, str]]:
    handler = Refuser()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"http://127.0.0.1:{port}"
    server.stop(grace=0).wait()


@pytest.mark.parametrize("code", CODES, ids=lambda c: c.name)
def test_each_status_of_a_call(refuser: tuple[Refuser, str], code: grpc.StatusCode) -> None:
    handler, uri = refuser
    handler.status = code
    with Store(uri, token="root:topsecret", timeout_s=5) as store:
        calls: list[Callable[[], object]] = [store.list, lambda: store.open("images"), lambda: store.drop("images")]
        for call in calls:
            handler.calls = 0
            with pytest.raises(StoreError) as caught:
                call()
            assert type(caught.value) is OF_STATUS.get(code, StoreError)
            assert "topsecret" not in str(caught.value)
            assert "\n" not in str(caught.value)
            assert handler.calls <= 2  # not pymilvus's 75 retries


@pytest.mark.parametrize("code", CODES, ids=lambda c: c.name)
def test_each_status_of_connecting(refuser: tuple[Refuser, str], code: grpc.StatusCode) -> None:
    handler, uri = refuser
    handler.status, handler.refuses_connections = code, True
    with pytest.raises(StoreError) as caught:
        Store(uri, timeout_s=5)
    auth = code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert type(caught.value) is (StoreAuthError if auth else StoreError if exhausted else StoreUnavailableError)


@pytest.mark.parametrize("kind", [*FOREIGN, ValueError, TypeError, grpc.FutureTimeoutError, grpc.RpcError, OSError])
def test_each_class(kind: type[Exception]) -> None:
    message = "no\ntopsecret"
    error = translate(kind(1, message) if kind in FOREIGN else kind(message), ATTEMPT)
    assert isinstance(error, InvalidArgumentError if kind is ParamError else StoreError)
    assert "topsecret" not in str(error)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (100, "collection not found", CollectionNotFoundError),
        (6, "unexpected token", FilterError),
        (65535, "failed to create query plan: cannot parse expression: year >, error: ...", FilterError),
        (1100, "failed to create query plan: cannot parse expression: year >: invalid parameter", FilterError),
        (1100, "invalid parameter[expected=a name][actual=]", InvalidArgumentError),
        (1, "`output_fields` value [''] is illegal", InvalidArgumentError),
        (65535, "parse output field name failed: a[", InvalidArgumentError),
        (1400, "not authenticated", StoreAuthError),
        (65535, "auth check failure, please check api key is correct", StoreAuthError),
        (101, "collection not loaded", CollectionNotLoadedError),
        (2, "Fail connecting to server", StoreUnavailableError),
        (grpc.StatusCode.UNAVAILABLE, "Retry run out of 75 retry times", StoreUnavailableError),
        (1, "Retry timeout: 2s", StoreTimeoutError),
        (65535, "failed to search/query delegator 1: worker(1) query failed: context canceled", StoreTimeoutError),
        (65535, "failed to search/query delegator 1: worker(1) query failed: context deadline exceeded", StoreTimeoutError),
        (1, "Unexpected error, message=<Cannot invoke RPC on closed channel!>", StoreUnavailableError),
        (65535, "something else", StoreError),
    ],
)
def test_messages_of_milvus(code: Any, message: str, expected: type[MilvusCoopError]) -> None:
    error = translate(MilvusException(code, message), ATTEMPT)
    assert type(error) is expected


def test_a_collection_that_cannot_be_loaded_soon_after_a_restart() -> None:
    error = translate(MilvusException(65535, "unrecoverable error"), replace(ATTEMPT, call="load_collection"))
    assert type(error) is CollectionNotLoadedError
    assert "try again in a minute" in str(error)
