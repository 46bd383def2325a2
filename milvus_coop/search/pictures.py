"""Pictures of candidates, opened again from their uri: decoded in threads, with a small memory for those that come again."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_SIDE
from milvus_coop.errors import ImageError
from milvus_coop.models.encoder import Encoder
from milvus_coop.types import Array

THREADS = 8
CACHE_BYTES = 64 * 2**20
"""About 150 pictures of 384 x 384 pixels as uint8, or 35 as float32."""

Pixels = Mapping[str, Array]
"""What the cross-encoder reads of one picture, by input name; each of shape (1, ...)."""
Version = tuple[str, int, int]
"""Path, size and time of the last change."""


class PixelCache:
    """The pixels that were used last, up to a number of bytes. Safe to share between threads."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[Version, Pixels] = OrderedDict()
        self._n_bytes = 0

    def get(self, version: Version) -> Pixels | None:
        """The pixels of that version of a file, if they are known."""
        with self._lock:
            if version in self._known:
                self._known.move_to_end(version)
            return self._known.get(version)

    def put(self, version: Version, pixels: Pixels) -> None:
        """Remember pixels, and forget those that were not used for longest."""
        with self._lock:
            if version not in self._known:
                self._known[version] = pixels
                self._n_bytes += _size(pixels)
            while self._n_bytes > self._limit_bytes:
                self._n_bytes -= _size(self._known.popitem(last=False)[1])

    @property
    def n_bytes(self) -> int:
        """Bytes in use."""
        return self._n_bytes


class Pictures:
    """Opens pictures for the cross-encoder. Safe to share between threads."""

    def __init__(self, encoder: Encoder, cache: PixelCache | None = None) -> None:
        self._encoder = encoder
        self._cache = cache or PixelCache()
        tensors = [tensor for tensor in encoder.spec.graph(CROSS_ENCODER).inputs if tensor.name in IMAGE_SIDE]
        self.n_bytes = sum(int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in tensors)
        """Of one picture's pixels."""

    def open(self, uris: Sequence[str], deadline_s: float | None = None) -> list[Pixels | None]:
        """What the cross-encoder reads of each picture; None for those that cannot be opened, or not by the deadline.

        Args:
            uris: of rows.
            deadline_s: value of `time.perf_counter()`; None: no limit.
        """
        pool = ThreadPoolExecutor(max(1, min(THREADS, os.cpu_count() or 1, len(uris))), "milvus-coop-open")
        try:
            futures = [pool.submit(self._open, uri) for uri in uris]
            done = wait(futures, None if deadline_s is None else max(0.0, deadline_s - time.perf_counter())).done
            return [future.result() if future in done else None for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def together(pictures: Sequence[Pixels]) -> dict[str, Array]:
        """One batch of several pictures."""
        return {name: np.concatenate([pixels[name] for pixels in pictures]) for name in pictures[0]}

    def _open(self, uri: str) -> Pixels | None:
        path = local_path(uri)
        if path is None:
            return None
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                return None
            version = (str(path), status.st_size, status.st_mtime_ns)
            if (known := self._cache.get(version)) is not None:
                return known
            pixels = self._encoder.ce_pixels([self._encoder.decode(path)])
        except (ImageError, OSError, ValueError, MemoryError):
            return None
        self._cache.put(version, pixels)
        return pixels


def local_path(uri: str) -> Path | None:
    """The file of this machine that a uri names; None for everything else, which is not fetched: a row may name any server.

    Absolute paths and file:// uris are files. A relative path is none, relative to what being unknown; nor is `//host/...`.
    """
    if "://" in uri:
        try:
            parts = urlsplit(uri)
        except ValueError:
            return None
        if parts.scheme.lower() != "file" or parts.netloc.lower() not in ("", "localhost"):
            return None
        uri = url2pathname(parts.path)
    if uri.startswith(("//", "\\\\")) or "\0" in uri:
        return None
    path = Path(uri)
    return path if path.is_absolute() else None


def _size(pixels: Pixels) -> int:
    return sum(array.nbytes for array in pixels.values())
