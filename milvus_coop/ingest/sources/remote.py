"""Object stores: files, prefixes and globs at s3://, gs://, az:// and abfs://. Of ingest, only this module uses fsspec.

A prefix is listed folder by folder, and nothing is kept but the names of folders that are still to be listed. S3 is listed page by
page, 1,000 objects each. The drivers of other stores return a whole folder at once, as a dict for each object.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any
from urllib.parse import unquote

from milvus_coop.errors import InvalidArgumentError, SourceError
from milvus_coop.ingest.images import Version
from milvus_coop.ingest.outages import may_pass, patiently
from milvus_coop.ingest.sources.files import PassOver, joined
from milvus_coop.ingest.sources.walk import ANY_DEPTH, OTHER_IMAGES, matches, suffix_of
from milvus_coop.models.preprocess.uris import is_url
from milvus_coop.printable import escaped
from milvus_coop.store.token_store.location import DRIVERS, MEMORY, holds_password, parse_location
from milvus_coop.types import Failure

SCHEMES = (*DRIVERS, MEMORY)
IMAGE_BYTES = 256 * 2**20
"""Maximum size of an object that is read as an image. It is read as a whole."""
SHOWN_BYTES = 64 * 2**20
SHOWN_S = 10.0
"""Limits for an image that is read only to be shown: its size, and the time of each of the two requests that it takes."""
SHOWN_AT_ONCE = 8
"""Maximum number of images that are read at the same time to be shown."""
BLOCK_BYTES = 4 * 2**20
"""Size of the blocks in which lists, tables and shards are read."""
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "LastModified", "last_modified", "updated", "mtime", "created")
"""The names that drivers use for what changes with the content of an object; the best come first."""
_LONGEST = 300


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
        raise SourceError(f"{escaped(address)[:_LONGEST]} names no bucket", expected=f"{protocol}://bucket/prefix")
    import fsspec  # imported here because it takes 70 ms

    url = f"{protocol}://{rest}"
    try:
        kind = fsspec.get_filesystem_class(protocol)
        system = fsspec.filesystem(protocol, **kind._get_kwargs_from_urls(url))
    except ImportError as exc:
        driver = DRIVERS.get(protocol, "fsspec")
        raise SourceError(f"{protocol}:// needs {driver}, which is not installed", run=f"pip install {driver}") from exc
    except Exception as exc:
        raise SourceError(f"{protocol}:// cannot be opened: {_reason(exc)}") from exc
    return RemoteFile(system, str(kind._strip_protocol(url)).rstrip("/"), url)


def shown_root(address: str) -> RemoteFile:
    """The prefix at an address, below which images may be read to be shown; see `below_root`.

    Raises:
        InvalidArgumentError: it is not the address of a prefix in an object store.
        SourceError: the driver is not installed.
    """
    location = parse_location(address, "root")
    if location.folder is not None:
        raise InvalidArgumentError(
            f"the root {escaped(address)[:_LONGEST]} is a folder", expected="s3://bucket/prefix, or gs://, az://"
        )
    return replace(remote_file(location.url), limit_bytes=SHOWN_BYTES, limit_s=SHOWN_S)


def below_root(root: RemoteFile, uri: str) -> RemoteFile | None:
    """The object below a prefix that a uri names; None if it may be another one. The store is not asked.

    Only the part of the uri after the root is used. A relative uri is a path below the root. A uri with a segment `..` is refused,
    also where it is percent-encoded, because drivers and servers differ in what they make of it.
    """
    protocol, mark, rest = uri.partition("://")
    if mark:
        name = f"{protocol.lower()}://{rest}"
        if not name.startswith(f"{root.name}/"):
            return None
        path = name[len(root.name) + 1 :]
    elif uri.startswith(("/", "\\")) or is_url(uri):
        return None
    else:
        path = uri
    decoded = path
    while (once := unquote(decoded)) != decoded:
        decoded = once
    if not path or any(c < " " for c in decoded) or not {".", ".."}.isdisjoint(re.split(r"[/\\]", decoded)):
        return None
    return root.below(path)


def walk_remote(
    root: RemoteFile, parts: Sequence[str], suffixes: frozenset[str], pass_over: PassOver | None = None
) -> Iterator[RemoteFile | Failure]:
    """The objects below a prefix that match a pattern and have one of the suffixes; see `walk`, which does it for folders.

    Objects that are named twice, such as by a listing that changes, are yielded twice.
    """
    flat = tuple(parts) == (ANY_DEPTH,)  # no folder is left out, and so S3 need not say which there are
    depth = None if ANY_DEPTH in parts else len(parts)
    waiting: list[str] = [""]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        try:
            for path, info in _listing(root.system, f"{root.path}/{folder}".rstrip("/"), flat):
                name = path.removeprefix(f"{root.path}/")
                names = tuple(name.split("/"))
                if any(part.startswith(".") for part in names):
                    continue
                if info is None:
                    folders += [name] if name else []
                elif matches(parts, names) and suffix_of(names[-1]) in suffixes:
                    yield root.below(name, version_of(info))
                elif pass_over and suffix_of(names[-1]) in OTHER_IMAGES and matches(parts, names):
                    pass_over(suffix_of(names[-1]), root.below(name).name)
        except Exception as exc:  # drivers raise errors of botocore, aiohttp, azure, ...
            where = escaped(f"{root.name}/{folder}".rstrip("/"))
            yield Failure(where, f"the prefix cannot be listed: {_reason(exc)}", _lost(exc))
        if depth is None or (folder.count("/") + 1 if folder else 0) + 1 < depth:
            waiting += reversed(folders)


def version_of(info: Mapping[str, Any]) -> Version | None:
    """Size, and 63 bits of a hash of the first of `_TAGS` that an object has; None if it has none."""
    for name in _TAGS:
        tag = info.get(name)
        if tag not in (None, ""):
            text = tag.isoformat() if isinstance(tag, datetime.datetime) else str(tag).strip('"')
            digest = hashlib.sha256(f"{name.lower()} {text}".encode()).digest()
            return int(info.get("size", info.get("Size")) or 0), int.from_bytes(digest[:8], "big") >> 1
    return None


def _listing(system: Any, path: str, flat: bool) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """The paths of objects with their facts, and those of folders with None.

    If `flat`, the objects of folders may come in place of the folders.
    """
    if hasattr(system, "call_s3"):
        yield from _pages_of_s3(system, path, flat)
        return
    system.invalidate_cache()
    try:
        found = system.ls(path, detail=True)
    except FileNotFoundError:  # an empty prefix
        return
    for info in sorted(found, key=lambda info: str(info["name"])):
        name = str(info["name"]).rstrip("/")
        if info["type"] == "directory":
            yield name, None
        elif not str(info["name"]).endswith("/"):
            yield name, info


def _pages_of_s3(system: Any, path: str, flat: bool) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    bucket, key, _ = system.split_path(path)
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **({} if flat else {"Delimiter": "/"})}

    def next_page() -> Any:
        return system.call_s3("list_objects_v2", **asked, **getattr(system, "req_kw", {}))

    page = next_page()
    while True:
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):  # a mark for an empty folder
                yield f"{bucket}/{found['Key']}", found
        for found in page.get("CommonPrefixes", ()):
            yield f"{bucket}/{found['Prefix'][:-1]}", None
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]
        page = patiently(next_page, _lost)  # the store has answered before, and a listing of many pages cannot begin anew


@contextlib.contextmanager
def _boundary() -> Iterator[None]:
    """Translate the errors of drivers into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as exc:
        raise (ConnectionError if _lost(exc) else OSError)(_reason(exc)) from exc


def _lost(exc: Exception) -> bool:
    """True if the connection to the store was lost, or the store did not answer: drivers raise errors of their own for it."""
    return may_pass(exc) or any(word in type(exc).__name__ for word in ("Connect", "Timeout", "ServerDisconnected"))


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split())[:_LONGEST] or type(exc).__name__
