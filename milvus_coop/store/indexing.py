"""Builds the index of a collection that was filled without one, so that a server builds it once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from milvus_coop.errors import StoreError
from milvus_coop.store.connection import Connection
from milvus_coop.store.schema import FLAT, PLANNED_INDEX, index_params

STEP_TIMEOUT_S = 600.0
"""Minimum time limit for flushing, releasing and loading. Loading reads all rows of the collection."""
POLL_S = 1.0


def build(
    connection: Connection,
    collection: str,
    index: str,
    field: str,
    replicas: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Replace the index `FLAT` by another one, wait until it is built, and load the collection. Each step may be repeated.

    Args:
        connection: the connection to a server.
        collection: name of the collection.
        index: type of the index.
        field: the field with the vectors.
        replicas: number of copies with which the collection is loaded.
        on_progress: a function that gets the numbers of indexed rows and of all rows.

    Raises:
        StoreError: the server failed to build the index, or to load the collection.
    """

    def call(name: str, **arguments: Any) -> Any:
        return connection.call(name, collection=collection, timeout_s=max(STEP_TIMEOUT_S, connection.timeout_s), **arguments)

    call("flush")  # a server indexes only what it has written to its storage
    if call("describe_index", index_name=field).get("index_type") == FLAT:
        call("release_collection")  # a server drops no index of a loaded collection
        call("drop_index", index_name=field)
    call("create_index", index_params=index_params(index), sync=False)
    while True:
        state = call("describe_index", index_name=field)
        if state.get("state") == "Failed":
            raise StoreError(f"Milvus failed to build the index of '{collection}': {state.get('index_state_fail_reason', '')}")
        total, pending = int(state.get("total_rows", 0)), int(state.get("pending_index_rows", 0))
        if on_progress is not None:
            on_progress(int(state.get("indexed_rows", 0)), total)
        if state.get("state") == "Finished" and not pending:
            break
        time.sleep(POLL_S)
    call("load_collection", **({"replica_number": replicas} if replicas > 1 else {}))
    call("alter_collection_properties", properties={PLANNED_INDEX: ""})
