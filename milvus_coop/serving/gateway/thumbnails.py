"""Thumbnails of items. They are made only from files below the folders that may be shown."""

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
from milvus_coop.models.preprocess.uris import local_path

CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Original:
    """An image file that may be shown, in its present version."""

    path: Path
    size: int
    mtime_ns: int

    def etag(self, edge: int) -> str:
        """The ETag of a thumbnail. It changes with the file and with the requested size."""
        return (
            '"'
            + hashlib.sha256(f"{self.path}\0{self.size}\0{self.mtime_ns}\0{edge}".encode(errors="replace")).hexdigest()[:32]
            + '"'
        )


class Thumbnails:
    """Makes thumbnails and caches the ones used last. Safe to share between threads.

    Args:
        folders: folders whose images may be shown, with symbolic links resolved.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def original(self, uri: str) -> Original | None:
        """The file that a uri names; None if it may not be shown, such as a link to a file elsewhere or an address on a server.

        A relative uri is looked for below each of the folders in turn.
        """
        named = local_path(uri)
        places = [named] if named is not None else [folder / uri for folder in self._folders if _is_relative(uri)]
        return next(filter(None, map(self._shown, places)), None)

    def _shown(self, named: Path) -> Original | None:
        try:
            path = named.resolve(strict=True)
            status = path.stat()
        except (OSError, RuntimeError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or not any(path.is_relative_to(folder) for folder in self._folders):
            return None
        return Original(path, status.st_size, status.st_mtime_ns)

    def make(self, original: Original, edge: int) -> bytes:
        """A JPEG file whose longer edge has at most `edge` pixels.

        Raises:
            ImageError: the image cannot be read.
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


def _is_relative(uri: str) -> bool:
    return bool(uri) and "://" not in uri and "\0" not in uri and not Path(uri).is_absolute()


def thumbnail_of(collection: str, item: str) -> str:
    """The address of an item's thumbnail, relative to the service."""
    return f"/v1/items/{quote(item, safe='')}/thumbnail?collection={quote(collection, safe='')}"
