"""Milvus Lite servers of this process. There is one server per folder. All stores on the folder share it; the last one stops it.

pymilvus can start such a server, but never stops it before the process ends, so the folder would stay locked after `close()`.

Milvus Lite 3.2 keeps new rows in a table in memory until the table takes 128 MiB. Each search scans the table row by row: 60
microseconds per row, 0.6 s for 10,000 rows, against 10 ms after they are flushed into an indexed segment. While Milvus Lite
flushes, no reader can see these rows. Therefore `Backlog` decides when to flush, and `read_lock` keeps readers out meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milvus_coop.deadline import Deadline
from milvus_coop.errors import InvalidArgumentError, StoreError, StoreLockedError, reason_of

LOOK_EVERY_S = 0.2
"""Time between two attempts to open a folder that another process has open."""
BACKLOG_ROWS = 500
BACKLOG_BYTES = 32 * 2**20

_starting = threading.RLock()
_servers: dict[Path, LiteServer] = {}


@dataclass
class Backlog:
    """Number and size of the rows that were written to a collection and not flushed yet."""

    rows: int = 0
    n_bytes: int = 0

    @property
    def slows_searches(self) -> bool:
        """True if a search should flush first. A flush takes 0.1 to 1 s, once."""
        return self.rows >= BACKLOG_ROWS

    @property
    def is_full(self) -> bool:
        """True if a writer should flush. This is well before Milvus Lite flushes on its own, when readers would not be kept out."""
        return self.n_bytes >= BACKLOG_BYTES


@dataclass
class LiteServer:
    """One running Milvus Lite server, and the number of stores that use it."""

    folder: Path
    endpoint: str
    ours: bool
    """False if a MilvusClient of the same process started the server; then this module must not stop it."""
    users: int = 0
    write_lock: threading.RLock = field(default_factory=threading.RLock)
    """Milvus Lite allows only one writer at a time."""
    read_lock: threading.RLock = field(default_factory=threading.RLock)
    """A lock for readers. One reader at a time costs no speed, because a search in Milvus Lite is Python code. If both locks are
    needed, `write_lock` must be taken first."""
    backlogs: dict[str, Backlog] = field(default_factory=lambda: defaultdict(Backlog))
    """The backlog of each collection, by name."""


def acquire(folder: Path, wait_s: float = 0.0) -> LiteServer:
    """The server of that folder; it is started if it does not run. Give it back with `release`.

    Args:
        folder: the folder.
        wait_s: time to wait until no other process has the folder open, in seconds.

    Raises:
        InvalidArgumentError: the parent folder does not exist.
        StoreLockedError: another process has the folder open.
        StoreError: the path is not a Milvus Lite folder, or milvus-lite is not installed.
    """
    deadline = Deadline(wait_s)
    while True:
        try:
            return _acquire(folder.resolve())
        except StoreLockedError:
            if not (left_s := deadline.within(LOOK_EVERY_S)):
                raise
            time.sleep(left_s)


def _acquire(folder: Path) -> LiteServer:
    with _starting:
        server = _servers.get(folder)
        if server is None:
            try:
                _check_folder(folder)
            except OSError as exc:  # a folder above it may not be entered
                raise StoreError(f"{folder} cannot be opened: {exc.strerror}") from exc
            server = _servers[folder] = _start(folder)
        server.users += 1
        return server


def release(server: LiteServer) -> None:
    """Give a server back. When its last user gives it back, the server is stopped and the folder's lock is freed."""
    with _starting:
        server.users -= 1
        if server.users == 0:
            del _servers[server.folder]
            if server.ours:
                _manager().release_server(str(server.folder))


def remove_indexes(folder: Path, collection: str) -> bool:
    """Remove the index files of a collection. Milvus Lite builds missing ones again from the rows when it loads the collection.

    It writes them in place. So a process that is killed meanwhile leaves a part of a file, which makes loading fail.

    Returns:
        False if there are none.
    """
    files = list((folder / "collections" / collection / "partitions").glob("*/indexes/*.idx"))
    for file in files:
        file.unlink(missing_ok=True)
    return bool(files)


def release_unused_memory() -> None:
    """Give the memory back that Milvus Lite needed to read rows: 67 MB for 10,000 rows of 7 kB. pyarrow would keep it."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()


def _manager() -> Any:
    try:
        from milvus_lite.server_manager import server_manager_instance
    except ImportError as exc:
        raise StoreError(
            "milvus-lite is not installed",
            expected="the package milvus-lite, or the address of a Milvus server",
            run="pip install 'milvus-lite>=3.2.1'",
        ) from exc
    return server_manager_instance


def _check_folder(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise InvalidArgumentError(f"the folder {folder.parent} does not exist", run=f"mkdir -p {folder.parent}")
    if folder.is_file():
        raise StoreError(
            f"{folder} is a file, perhaps of Milvus Lite 2.x",
            expected="a folder of Milvus Lite 3, or a path that does not exist yet; version 3 cannot read files of version 2",
            run="ingest again into another path",
        )
    if folder.is_dir() and not (folder / "collections").is_dir() and next(folder.iterdir(), None) is not None:
        raise StoreError(
            f"{folder} is a folder with other files in it", expected="a folder of Milvus Lite 3, or a path that does not exist yet"
        )


def _drop_flushed_logs(folder: Path) -> None:
    """Remove logs whose rows are in segments already. A process that is killed at the end of a flush leaves one.

    Milvus Lite 3.2.2 would read it again, and might have its rows twice from then on. A manifest names the log that is in use; the
    rows of logs with lower numbers were in segments when it was saved.
    """
    for manifest in folder.glob("collections/*/manifest.json"):
        # If a manifest or a log cannot be used, Milvus Lite finds that too, and says so.
        with suppress(OSError, ValueError, KeyError, TypeError):
            active = int(json.loads(manifest.read_text(encoding="utf-8"))["active_wal_number"])
            for log in (manifest.parent / "wal").glob("wal_*_*.arrow"):
                if int(log.stem.rpartition("_")[2]) < active:
                    log.unlink(missing_ok=True)


def _is_open(folder: Path) -> bool:
    """True if a process has the folder open, or if that cannot be found out."""
    import fcntl  # not on Windows, where there is no Milvus Lite

    try:
        with (folder / "LOCK").open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # a new folder, or a copy
        return False
    except OSError:
        return True
    return False


def _start(folder: Path) -> LiteServer:
    manager = _manager()
    ours = str(folder) not in getattr(manager, "_servers", {})
    for _ in range(2):  # after the first failure, the folder may have become free
        if not _is_open(folder):
            _drop_flushed_logs(folder)
        if (endpoint := manager.start_and_get_uri(str(folder))) is not None:
            return LiteServer(folder, endpoint, ours)
        _explain(folder)
    raise StoreError(f"Milvus Lite could not open {folder}")


def _explain(folder: Path) -> None:
    """Raise the error that made the start fail; the manager only logs it."""
    from milvus_lite.db import MilvusLite
    from milvus_lite.exceptions import DataDirLockedError

    try:
        MilvusLite(str(folder)).close()
    except DataDirLockedError as exc:
        raise StoreLockedError(
            f"another process has {folder} open",
            expected="one process at a time on a Milvus Lite folder",
            run="stop the other process, wait for it (--wait SECONDS, or wait_s), or use a Milvus server for several",
        ) from exc
    except Exception as exc:  # any other reason: permissions, a broken manifest, a full disk
        raise StoreError(f"Milvus Lite could not open {folder}: {reason_of(exc)}") from exc
