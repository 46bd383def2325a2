"""The parts of pymilvus that are private: those of the handler of a client. Only this module uses them."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pymilvus
from pymilvus import MilvusClient
from pymilvus.client.utils import SciPyHelper

from milvus_coop.errors import StoreError

_LOOKING_FOR_SCIPY = threading.Lock()
_PARTS = ("_on_rpc_error", "do_bulk_insert", "get_bulk_insert_state")


def handler_of(client: MilvusClient) -> Any:
    """The handler of a client. It has the bulk import of servers, for which MilvusClient has no method.

    pymilvus' public functions for it are deprecated (`utility`), or need the address and the key of another protocol
    (`bulk_import`, HTTP).

    Raises:
        StoreError: this pymilvus has no such handler.
    """
    handler = getattr(client, "_handler", None)
    if missing := [name for name in _PARTS if not callable(getattr(handler, name, None))]:
        raise StoreError(
            f"pymilvus {pymilvus.__version__} has no {missing[0]} in its handler",
            expected="a version that pyproject.toml allows",
            run="pip install 'pymilvus>=3.0,<3.1'",
        )
    return handler


def report_errors_at_once(client: MilvusClient) -> None:
    """Let a client report a failed request at once. pymilvus calls `_on_rpc_error` after it, to decide whether to try again.

    If a server cannot be reached, pymilvus would reconnect under a lock of the whole process. Each waiting thread in turn would do
    so for as long as connecting may take, beyond the timeout of the request, and then repeat the request until its timeout. That is
    not needed, because gRPC reconnects by itself. No public setting of pymilvus 3.0 turns it off: this call comes before all of
    them, and `retry_times` only counts for calls without a timeout.

    Raises:
        StoreError: this pymilvus has no such handler.
    """
    handler_of(client)._on_rpc_error = _raise


def find_scipy() -> None:
    """Let pymilvus look for SciPy now, whose sparse vectors it accepts.

    It does so at the first vectors of a process, without a lock: of several threads that search first, some would fail with
    "partially initialized module".
    """
    with _LOOKING_FOR_SCIPY:
        SciPyHelper.is_scipy_sparse(None)


def _raise(error: Exception) -> bool:
    if isinstance(error, grpc.RpcError):
        raise error
    return False
