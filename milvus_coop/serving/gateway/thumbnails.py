"""Thumbnails of items: only of files below the folders that may be shown."""

from __future__ import annotations

import hashlib
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from milvus_coop.models.preprocess.thumbnails import thumbnail
from milvus_coop.search.pictures import local_path

CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Original:
    """A picture that may be shown, as it is now."""

    path: Path
    size: int
    mtime_ns: int

    def etag(self, edge: int) -> str:
        """Changes with the file and with the size asked for."""
        return (
            '"'
            + hashlib.sha256(f"{self.path}\0{self.size}\0{self.mtime_ns}\0{edge}".encode(errors="replace")).hexdigest()[:32]
            + '"'
        )


class Thumbnails:
    """Makes thumbnails and remembers the last ones. Safe to share between threads.

    Args:
        folders: below which pictures may be shown, with symbolic links resolved.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def original(self, uri: str) -> Original | None:
        """The file that a uri names, if it is one that may be shown: not a link that leads elsewhere, nor a foreign address."""
        named = local_path(uri)
        if named is None:
            return None
        try:
            path = named.resolve(strict=True)
            status = path.stat()
        except (OSError, RuntimeError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or not any(path.is_relative_to(folder) for folder in self._folders):
            return None
        return Original(path, status.st_size, status.st_mtime_ns)

    def make(self, original: Original, edge: int) -> bytes:
        """A JPEG file of at most `edge` pixels.

        Raises:
            ImageError: the picture cannot be read.
        """
        tag = original.etag(edge)
        with self._lock:
            if tag in self._known:
                self._known.move_to_end(tag)
                return self._known[tag]
        made = thumbnail(original.path, edge)
        with self._lock:
            if tag not in self._known:
                self._known[tag] = made
                self._n_bytes += len(made)
            while self._n_bytes > CACHE_BYTES:
                self._n_bytes -= len(self._known.popitem(last=False)[1])
        return made


def thumbnail_of(collection: str, item: str) -> str:
    """The address of an item's thumbnail, relative to the service."""
    return f"/v1/items/{quote(item, safe='')}/thumbnail?collection={quote(collection, safe='')}"
