"""Files in a local folder or an object store, read and written by name.

A local file is first written under a temporary name; an object store shows a file only when it is complete. In an object store,
many files are read, written and removed at the same time: in threads, or by drivers with coroutines in a single call.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from milvus_coop.elsewhere.location import DRIVERS, Location
from milvus_coop.errors import StoreError, TokenStoreError

THREADS = 16
"""Maximum number of simultaneous requests to an object store."""
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""The names that drivers use for the time of a file's last change. If a driver has several of them, their values agree."""
_LONGEST = 300
_NO_SUCH_RANGE = re.compile(r"\brange\b|InvalidRange", re.IGNORECASE)
"""Matches the drivers' messages for HTTP 416, with which an object store reports that an object is empty."""

Given = TypeVar("Given")
Got = TypeVar("Got")


class Files:
    """The files below one location. Safe to share between threads.

    Args:
        location: the folder.
        what: its name in messages.
        error: the error that its methods raise.

    Raises:
        TokenStoreError: the driver of the location's protocol is not installed. Methods raise it if the place cannot be reached or
            refuses a request.
    """

    def __init__(self, location: Location, what: str = "token store", error: type[StoreError] = TokenStoreError) -> None:
        self.location = location
        self._what = what
        self._error = error
        self._folder = location.folder
        self._readers = ThreadPoolExecutor(THREADS, "milvus-coop-tokens")
        import fsspec  # imported here because it takes 70 ms and only users of token files need it

        with self._boundary("be opened"):
            try:
                self._system: Any = fsspec.filesystem(location.protocol)
            except ImportError as exc:
                driver = DRIVERS.get(location.protocol, "fsspec")
                raise self._error(f"{location} needs {driver}, which is not installed", run=f"pip install {driver}") from exc
            self._root = str(self._system._strip_protocol(location.url)).rstrip("/")

    def read(self, name: str) -> bytes | None:
        """The content of one file; None if there is no such file."""
        with self._boundary("be read"), contextlib.suppress(FileNotFoundError):
            return bytes(self._system.cat_file(self._path(name)))
        return None

    def read_many(self, names: Sequence[str], n_bytes: int, timeout_s: float | None = None) -> list[bytes | None]:
        """The contents of files of a known size; None for each file that is missing or has another size.

        Raises:
            TokenStoreError: the place cannot be reached, or did not answer in time.
        """
        if self._folder is not None:
            with self._boundary("be read"):
                return [_content(self._folder / name, n_bytes) for name in names]
        found = self._starts(names, n_bytes + 1, timeout_s)  # one more byte is read to notice a larger object
        return [content if content is not None and len(content) == n_bytes else None for content in found]

    def has(self, name: str, timeout_s: float | None = None) -> bool:
        """True if there is such a file; for the errors, see `read_many`."""
        if self._folder is not None:
            return self.read(name) is not None
        return self._starts([name], 1, timeout_s) != [None]

    def write(self, name: str, content: bytes) -> None:
        """Write one file. Readers never see a part of it."""
        with self._boundary("be written to"):
            if self._folder is None:
                self._system.pipe_file(self._path(name), content)
            else:
                _replace(self._folder / name, content)

    def write_many(self, contents: Mapping[str, bytes]) -> None:
        """Write files, in any order."""
        self._each(lambda item: self.write(*item), list(contents.items()))

    def remove_many(self, names: Sequence[str]) -> None:
        """Remove files. Files that do not exist are ignored."""
        self._each(self._remove, names)

    def remove_older(self, names: Sequence[str], before_s: float) -> int:
        """Remove the files that were last written before `before_s`, checking each one again just before; return their number."""
        self._system.invalidate_cache()
        return sum(self._each(lambda name: self._remove_if_older(name, before_s), names))

    def listing(self) -> Iterator[tuple[str, float, int]]:
        """Name, time and size of every file: seconds since 1970 when it was written (`inf` if not known), and bytes."""
        with self._boundary("be listed"):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._root, detail=True)
            except FileNotFoundError:
                found = {}
        for path, info in sorted(found.items()):
            yield str(path)[len(self._root) :].lstrip("/"), _written(info), int(info.get("size") or 0)

    def remove_folders(self) -> None:
        """Remove the empty subfolders of a local folder, and the folder if it is empty. Object stores have no folders."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                for path in self._folder.iterdir():
                    with contextlib.suppress(OSError):
                        path.rmdir()
                self._folder.rmdir()

    def _starts(self, names: Sequence[str], n_bytes: int, timeout_s: float | None) -> list[bytes | None]:
        """The first bytes of objects; None for each one that is missing or empty. Late requests are cancelled if the driver can."""
        if not names:
            return []
        if timeout_s is not None and timeout_s <= 0:
            raise self._late(timeout_s)
        with self._boundary("be read"):
            read = self._by_coroutines if self._system.async_impl else self._by_threads
            answers = read([self._path(name) for name in names], n_bytes, timeout_s)
            return [_start(answer) for answer in answers]

    def _by_coroutines(self, paths: Sequence[str], n_bytes: int, timeout_s: float | None) -> list[bytes | Exception]:
        """No thread waits for an answer, and `gather` cancels its requests, which fsspec's own `cat_ranges` does not do."""
        from fsspec.asyn import sync
        from fsspec.exceptions import FSTimeoutError

        async def fetch_all() -> list[Any]:
            free = asyncio.Semaphore(THREADS)

            async def fetch(path: str) -> bytes:
                async with free:
                    return bytes(await self._system._cat_file(path, start=0, end=n_bytes))

            return await asyncio.gather(*map(fetch, paths), return_exceptions=True)

        try:
            return list(sync(self._system.loop, fetch_all, timeout=timeout_s))
        except FSTimeoutError as exc:
            raise self._late(timeout_s) from exc

    def _by_threads(self, paths: Sequence[str], n_bytes: int, timeout_s: float | None) -> list[bytes | Exception]:
        """The threads are shared by all calls, so that those that a hanging place keeps never become more."""
        jobs = [self._readers.submit(self._system.cat_file, path, start=0, end=n_bytes) for path in paths]
        try:
            if wait(jobs, timeout_s).not_done:
                raise self._late(timeout_s)
            return [_answer(job) for job in jobs]
        finally:
            for job in jobs:
                job.cancel()

    def _late(self, timeout_s: float | None) -> StoreError:
        return self._error(f"{self.location} did not answer within {timeout_s:.3g} s")

    def _remove(self, name: str) -> None:
        with self._boundary("be written to"), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def _remove_if_older(self, name: str, before_s: float) -> bool:
        with self._boundary("be written to"), contextlib.suppress(FileNotFoundError):
            if _written(self._system.info(self._path(name))) <= before_s:
                self._system.rm_file(self._path(name))
                return True
        return False

    def _each(self, do: Callable[[Given], Got], items: Sequence[Given]) -> list[Got]:
        if self._folder is not None or len(items) < 2:
            return [do(item) for item in items]
        pool = ThreadPoolExecutor(min(THREADS, len(items)), "milvus-coop-tokens")
        try:
            return list(pool.map(do, items))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _boundary(self, what: str) -> Iterator[None]:
        """Translate errors. Drivers raise OSError and errors of botocore, aiohttp, azure, ...; FileNotFoundError for no bucket."""
        try:
            yield
        except self._error:
            raise
        except Exception as exc:
            reason = " ".join(str(exc).split())[:_LONGEST] or type(exc).__name__
            raise self._error(f"the {self._what} {self.location} cannot {what}: {reason}") from exc


def _answer(job: Future[bytes]) -> bytes | Exception:
    error = job.exception()
    if error is None:
        return job.result()
    if isinstance(error, Exception):
        return error
    raise error


def _start(answer: bytes | Exception) -> bytes | None:
    """The bytes that a driver returned for a range; None if there is no such object, or if it is empty."""
    if not isinstance(answer, Exception):
        return bytes(answer)
    if isinstance(answer, FileNotFoundError) or _NO_SUCH_RANGE.search(str(answer)):
        return None
    raise answer


def _content(path: Path, n_bytes: int) -> bytes | None:
    """The content of a local file; None if it is missing or has another size.

    The file is read and not mapped: 1,000 mapped files take 1,000 descriptors, and a file that is truncated while it is mapped
    kills the process. Other errors (too many open files, no permission, an unreachable network folder) are raised, because they do
    not show that the file is missing.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != n_bytes:
                return None
            content = file.read(n_bytes + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return content if len(content) == n_bytes else None


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the row that names this file may survive a power cut, so the file must survive it too
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _written(info: Mapping[str, Any]) -> float:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return float("inf")
