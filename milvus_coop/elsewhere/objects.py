"""Files in object stores, at s3://, gs://, az:// and abfs://, read through fsspec."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import io
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any

from milvus_coop.elsewhere.location import DRIVERS, MEMORY, holds_password
from milvus_coop.elsewhere.outages import may_pass
from milvus_coop.errors import SourceError
from milvus_coop.printable import escaped

Version = tuple[int, int]
"""Size in bytes and a number that changes with the content, as collections keep them: the modification time of a file in
nanoseconds, or 63 bits of a hash of what an object store says of the object's version."""
SCHEMES = (*DRIVERS, MEMORY)
IMAGE_BYTES = 256 * 2**20
"""Maximum size of an object that is read as an image. It is read as a whole."""
BLOCK_BYTES = 4 * 2**20
"""Size of the blocks in which lists, tables and shards are read."""
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "LastModified", "last_modified", "updated", "mtime", "created")
"""The names that drivers use for what changes with the content of an object; the best come first."""
LONGEST = 300
"""Maximum number of characters of an address, or of a driver's error, that a message repeats."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object, or a prefix of objects."""

    system: Any = field(repr=False)
    """The file system of fsspec."""
    path: str
    """The path in that file system, without a slash at the end."""
    name: str
    """The address."""
    known: Version | None = None
    """The version that a listing gave."""
    limit_bytes: int = IMAGE_BYTES
    """Maximum size of an image."""
    limit_s: float | None = None
    """Time limit of each request for an image; None: that of the driver."""

    @property
    def image(self) -> RemoteFile:
        """This object."""
        return self

    def version(self) -> Version | None:
        """Size, and 63 bits of a hash of the ETag, or of what else the store gives; None if it gives nothing."""
        if self.known is not None:
            return self.known
        with _boundary():
            return version_of(self._asked("info", self.path))

    def open(self) -> IO[bytes]:
        """The object, read as a whole."""
        with _boundary():
            size = int((self.known or (self._asked("info", self.path).get("size") or 0,))[0])
            if size > self.limit_bytes:
                raise OSError(f"the object has {size:,} bytes; expected: at most {self.limit_bytes:,} for an image")
            most = {"start": 0, "end": self.limit_bytes + 1} if size else {}  # stores refuse a range of an empty object
            content = self._asked("cat_file", self.path, **most)
            if len(content) > self.limit_bytes:
                raise OSError(f"the object has grown to more than {self.limit_bytes:,} bytes")
            return io.BytesIO(content)

    def stream(self) -> IO[bytes]:
        """The object, read in blocks."""
        with _boundary():
            opened: IO[bytes] = self.system.open(self.path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
        return opened

    def beside(self, path: str) -> RemoteFile:
        """The object with that path, relative to the prefix of this one."""
        bucket, _, key = self.path.lstrip("/").partition("/")
        found = joined(f"{bucket}/{key.rpartition('/')[0]}".rstrip("/"), path)
        root = self.name[: len(self.name) - len(key)]
        return RemoteFile(self.system, f"/{found}" if self.path.startswith("/") else found, root + found.partition("/")[2])

    def below(self, path: str, known: Version | None = None) -> RemoteFile:
        """The object with that path below this prefix."""
        return replace(self, path=f"{self.path}/{path}", name=f"{self.name}/{path}", known=known)

    def is_there(self) -> bool:
        """True if there is such an object or prefix; OSError if the store does not say."""
        with _boundary(), contextlib.suppress(FileNotFoundError):
            self.system.invalidate_cache()
            self._asked("info", self.path)
            return True
        return False

    def _asked(self, method: str, path: str, **arguments: int) -> Any:
        """The answer of a method of the file system, within `limit_s`. The drivers of `DRIVERS` run in a loop that ends it."""
        if self.limit_s is None or not self.system.async_impl:
            return getattr(self.system, method)(path, **arguments)
        from fsspec.asyn import sync

        async def answer() -> Any:
            return await asyncio.wait_for(getattr(self.system, f"_{method}")(path, **arguments), self.limit_s)

        try:
            return sync(self.system.loop, answer)
        except (TimeoutError, asyncio.TimeoutError) as exc:  # two classes before Python 3.11
            raise TimeoutError(f"the object store did not answer within {self.limit_s:g} s") from exc


def is_remote(address: str) -> bool:
    """True if the address has a protocol of `SCHEMES`."""
    return address.partition("://")[0].lower() in SCHEMES and "://" in address


def remote_file(address: str) -> RemoteFile:
    """The object or prefix at an address.

    Raises:
        SourceError: the driver is not installed, or the address names no bucket or holds a password.
    """
    protocol, _, rest = address.partition("://")
    protocol, rest = protocol.lower(), rest.rstrip("/")
    if holds_password(address):
        raise SourceError(f"an address at {protocol}:// holds a password", expected="credentials where the driver looks for them")
    if not rest.split("/")[0] or "\0" in rest:
        raise SourceError(f"{escaped(address)[:LONGEST]} names no bucket", expected=f"{protocol}://bucket/prefix")
    import fsspec  # imported here because it takes 70 ms

    url = f"{protocol}://{rest}"
    try:
        kind = fsspec.get_filesystem_class(protocol)
        system = fsspec.filesystem(protocol, **kind._get_kwargs_from_urls(url))
    except ImportError as exc:
        driver = DRIVERS.get(protocol, "fsspec")
        raise SourceError(f"{protocol}:// needs {driver}, which is not installed", run=f"pip install {driver}") from exc
    except Exception as exc:
        raise SourceError(f"{protocol}:// cannot be opened: {reason(exc)}") from exc
    return RemoteFile(system, str(kind._strip_protocol(url)).rstrip("/"), url)


def version_of(info: Mapping[str, Any]) -> Version | None:
    """Size, and 63 bits of a hash of the first of `_TAGS` that an object has; None if it has none."""
    for name in _TAGS:
        tag = info.get(name)
        if tag not in (None, ""):
            text = tag.isoformat() if isinstance(tag, datetime.datetime) else str(tag).strip('"')
            digest = hashlib.sha256(f"{name.lower()} {text}".encode()).digest()
            return int(info.get("size", info.get("Size")) or 0), int.from_bytes(digest[:8], "big") >> 1
    return None


@contextlib.contextmanager
def _boundary() -> Iterator[None]:
    """Translate the errors of drivers into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as exc:
        raise (ConnectionError if lost(exc) else OSError)(reason(exc)) from exc


def lost(exc: Exception) -> bool:
    """True if the connection to the store was lost, or the store did not answer: drivers raise errors of their own for it."""
    return may_pass(exc) or any(word in type(exc).__name__ for word in ("Connect", "Timeout", "ServerDisconnected"))


def reason(exc: Exception) -> str:
    """The message of a driver's error in one line."""
    return " ".join(str(exc).split())[:LONGEST] or type(exc).__name__


def joined(folder: str, path: str) -> str:
    """A path relative to a folder of an object store.

    Raises:
        ValueError: the path is absolute, or leads out of the store.
    """
    if path.startswith("/"):
        raise ValueError("a list in an object store cannot name a file of this machine")
    key = posixpath.normpath(f"{folder}/{path}") if "/." in f"/{path}" else f"{folder}/{path}"
    if key.split("/")[0] != folder.split("/")[0]:
        raise ValueError("the path leads out of the object store")
    return key
