"""Thumbnails of items. They are made only from files below the folders and prefixes that may be shown."""

from __future__ import annotations

import hashlib
import stat
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.roots import below_root
from milvus_coop.models.preprocess.images import MAX_PIXELS
from milvus_coop.models.preprocess.thumbnails import thumbnail
from milvus_coop.models.preprocess.uris import local_path

CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Original:
    """An image file that may be shown, in its present version."""

    file: Path | RemoteFile
    size: int
    mtime_ns: int
    """The modification time of a file, or a number that changes with the content of an object."""

    def etag(self, edge: int) -> str:
        """The ETag of a thumbnail. It changes with the file and with the requested size."""
        name = self.file if isinstance(self.file, Path) else self.file.name
        return '"' + hashlib.sha256(f"{name}\0{self.size}\0{self.mtime_ns}\0{edge}".encode(errors="replace")).hexdigest()[:32] + '"'


class Thumbnails:
    """Makes thumbnails and caches the ones used last. Safe to share between threads.

    Args:
        folders: folders whose images may be shown, with symbolic links resolved.
        prefixes: prefixes of object stores whose images may be shown.
        max_pixels: see `decode`.
    """

    def __init__(self, folders: Sequence[Path], prefixes: Sequence[RemoteFile] = (), max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._folders = tuple(folders)
        self._prefixes = tuple(prefixes)
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def original(self, uri: str) -> Original | None:
        """The file of this machine that a uri names; None if it may not be shown, such as a link to a file elsewhere.

        A relative uri is looked for below each of the folders in turn.
        """
        named = local_path(uri)
        places = [named] if named is not None else [folder / uri for folder in self._folders if _is_relative(uri)]
        return next(filter(None, map(self._shown, places)), None)

    def elsewhere(self, uri: str) -> list[RemoteFile]:
        """The objects that a uri may name, below the prefixes. Only a relative uri may name several. No store is asked."""
        return [file for prefix in self._prefixes if (file := below_root(prefix, uri)) is not None]

    def remote_original(self, files: Sequence[RemoteFile]) -> Original | None:
        """The first of these objects that exists; None if there is none that may be shown.

        Raises:
            OSError: an object store did not answer.
        """
        for file in files:
            try:
                size, number = file.version() or (0, time.time_ns())
            except (FileNotFoundError, PermissionError):
                continue
            return Original(file, size, number) if size <= file.limit_bytes else None
        return None

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
            OSError: the object store does not give it.
        """
        tag = original.etag(edge)
        with self._lock:
            if tag in self._known:
                self._known.move_to_end(tag)
                return self._known[tag]
        file = original.file if isinstance(original.file, Path) else original.file.open()
        made = thumbnail(file, edge, max_pixels=self._max_pixels)
        with self._lock:
            if tag not in self._known:
                self._known[tag] = made
                self._n_bytes += len(made)
            while self._n_bytes > CACHE_BYTES:
                self._n_bytes -= len(self._known.popitem(last=False)[1])
        return made


def _is_relative(uri: str) -> bool:
    return bool(uri) and "://" not in uri and "\0" not in uri and not Path(uri).is_absolute()
