"""One connection to Milvus. Every call of this package to Milvus goes through `Connection.call`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from milvus_coop.certificates import check_certificates
from milvus_coop.errors import InvalidArgumentError, StoreError, StoreTimeoutError, StoreUnavailableError
from milvus_coop.store import lite
from milvus_coop.store.address import Address
from milvus_coop.store.failures import CONNECT, Attempt, translate
from milvus_coop.store.handler import handler_of, report_errors_at_once
from milvus_coop.store.own_writes import OWN_WRITES

RETRY_AFTER_S = 0.1
NEVER_MS = 2**31 - 1
"""The value with which gRPC turns keepalive off."""
FLUSH_TIMEOUT_S = 120.0
SHORTEST_SECRET = 6
"""Minimum length of a password in Milvus."""


@cache
def _mute() -> None:
    """Turn off the logs of pymilvus and Milvus Lite: they log a traceback at ERROR for each error that they also raise.

    This package reports the raised error. To see the logs, set their level again after the first connection.
    """
    for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Connection:
    """A MilvusClient with one timeout, one retry and this package's errors. Safe to use from several threads.

    Args:
        address: the address of Milvus.
        timeout_s: time limit of every call that does not set its own.
        wait_s: time to wait for a Milvus Lite folder that another process has open.
        ca_file: PEM file with the certificate authority of an https server.

    Raises:
        InvalidArgumentError: the timeout or the PEM file cannot be used.
        StoreUnavailableError, StoreAuthError, StoreLockedError, StoreError: the connection failed.
    """

    def __init__(self, address: Address, *, timeout_s: float, wait_s: float = 0.0, ca_file: Path | None = None) -> None:
        if not timeout_s > 0:
            raise InvalidArgumentError(f"timeout_s is {timeout_s}", expected="a positive number of seconds")
        if ca_file is not None:
            if not address.endpoint.startswith("https://"):
                raise InvalidArgumentError(f"ca_file is given, but the address is {address.label}", expected="https://host:19530")
            check_certificates(ca_file, "ca_file")
        _mute()
        self.address = address
        self.timeout_s = timeout_s
        self.own_writes = OWN_WRITES
        self._server = lite.acquire(address.folder, wait_s) if address.folder is not None else None
        try:
            self._client: MilvusClient | None = self._connect(ca_file)
        except BaseException:
            self._release()
            raise

    @property
    def is_lite(self) -> bool:
        """True if this is Milvus Lite in this process."""
        return self._server is not None

    def writing(self) -> AbstractContextManager[Any]:
        """A lock to hold while writing: Milvus Lite allows one writer at a time."""
        return contextlib.nullcontext() if self._server is None else self._server.write_lock

    @contextlib.contextmanager
    def reading(self, timeout_s: float | None = None) -> Iterator[None]:
        """A lock to hold while reading rows: Milvus Lite must not flush meanwhile.

        Args:
            timeout_s: maximum time to wait for the lock; None means any time.

        Raises:
            StoreTimeoutError: the lock did not become free.
        """
        if self._server is None:
            yield
            return
        lock = self._server.read_lock
        if not lock.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise StoreTimeoutError(f"other calls kept Milvus Lite at {self.address.label} busy for {timeout_s:.3g} s")
        try:
            yield
        finally:
            lock.release()

    def wrote(self, collection: str, rows: int, n_bytes: int) -> None:
        """Record a write, and flush Milvus Lite if too much is not flushed yet. Servers flush by themselves."""
        self.own_writes.note(self.address.label, collection)
        if self._server is not None:
            backlog = self._server.backlogs[collection]
            backlog.rows += rows
            backlog.n_bytes += n_bytes
            if backlog.is_full:
                self.flush(collection)

    def consistency(self, collection: str) -> str:
        """The level for reads that must be fast; see `OwnWrites.level`."""
        return self.own_writes.level(self.address.label, collection)

    def before_search(self, collection: str) -> None:
        """Flush Milvus Lite if the search gains more time than the flush takes."""
        if self._server is not None and self._server.backlogs[collection].slows_searches:
            with self._server.write_lock:
                if self._server.backlogs[collection].slows_searches:  # no other thread has flushed in the meantime
                    self.flush(collection)

    def flush(self, collection: str) -> None:
        """Move the new rows of Milvus Lite into an indexed segment."""
        if self._server is not None:
            with self._server.write_lock, self._server.read_lock:
                self.call("flush", collection=collection, timeout_s=FLUSH_TIMEOUT_S)
                self._server.backlogs.pop(collection, None)

    def call(self, name: str, *, collection: str = "", timeout_s: float | None = None, filter: str = "", **arguments: Any) -> Any:
        """Call a method of MilvusClient, and a second time if the server cannot be reached.

        All calls here may safely be repeated; after an insert, `Collection.settle` looks for rows that were written twice.

        Args:
            name: name of the method.
            collection: its `collection_name`, if it takes one.
            timeout_s: time limit of this call.
            filter: its filter expression, if it takes one.
            arguments: its other arguments.

        Raises:
            MilvusCoopError: the call failed. The error of pymilvus is translated; see `failures.translate`.
        """
        if collection:
            arguments["collection_name"] = collection
        if filter:
            arguments["filter"] = filter
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        attempt = self._attempt(name, limit_s, collection, filter)
        if limit_s <= 0:
            raise StoreTimeoutError(f"no time is left to {name} in Milvus at {self.address.label}")
        try:
            return self._run(attempt, lambda client: getattr(client, name)(timeout=limit_s, **arguments))
        except StoreUnavailableError:
            left_s = deadline - time.monotonic() - RETRY_AFTER_S
            if left_s <= 0:
                raise
        time.sleep(RETRY_AFTER_S)
        return self._run(attempt, lambda client: getattr(client, name)(timeout=left_s, **arguments))

    def start_import(self, collection: str, file: str) -> int:
        """Let a server read a file of its own storage into a collection, and return the number of that task.

        It is not repeated, because the rows would be there twice.
        """
        attempt = self._attempt("bulk import", self.timeout_s, collection)
        return int(self._run(attempt, lambda c: handler_of(c).do_bulk_insert(collection, "", [file], timeout=self.timeout_s)))

    def import_state(self, collection: str, task: int) -> Any:
        """The state of an import, as pymilvus describes it."""
        attempt = self._attempt("bulk import", self.timeout_s, collection)
        return self._run(attempt, lambda c: handler_of(c).get_bulk_insert_state(task, timeout=self.timeout_s))

    def close(self) -> None:
        """Close the connection. With Milvus Lite, also free the folder's lock if no other store uses it."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self._release()

    def _run(self, attempt: Attempt, method: Callable[[MilvusClient], Any]) -> Any:
        if self._client is None:
            raise StoreError("this connection to Milvus was closed", run="a new CoopSearch(...), CoopIngest(...) or Store(...)")
        try:
            return method(self._client)
        except Exception as exc:  # the boundary: pymilvus raises MilvusException, grpc.RpcError, TypeError, ValueError and more
            raise translate(exc, attempt) from exc

    def _connect(self, ca_file: Path | None) -> MilvusClient:
        endpoint = self.address.endpoint if self._server is None else self._server.endpoint
        options: dict[str, Any] = {"server_pem_path": str(ca_file)} if ca_file is not None else {}
        if self._server is not None:
            # pymilvus pings every 10 s; Milvus Lite's gRPC server considers that abuse and closes idle connections.
            options["grpc_options"] = {"grpc.keepalive_time_ms": NEVER_MS}
        try:
            client = MilvusClient(
                endpoint,
                token=self.address.token,
                db_name=self.address.database,
                timeout=self.timeout_s,
                dedicated=True,  # a shared one would stay open after close()
                **options,
            )
        except Exception as exc:  # as in _run
            raise translate(exc, self._attempt(CONNECT, self.timeout_s)) from exc
        report_errors_at_once(client)
        return client

    def _attempt(self, call: str, timeout_s: float, collection: str = "", filter: str = "") -> Attempt:
        token = self.address.token
        secrets = tuple(s for s in (token, token.partition(":")[2]) if len(s) >= SHORTEST_SECRET)
        return Attempt(self.address.label, call, timeout_s, collection, filter, secrets)

    def _release(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            lite.release(server)
