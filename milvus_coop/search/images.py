"""Opens images again at their uri. Threads decode them, and a small cache keeps the pixels used last."""

from __future__ import annotations

import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_SIDE
from milvus_coop.cores import available_cores
from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.errors import ImageError
from milvus_coop.models.encoder import Encoder, Pixels
from milvus_coop.models.preprocess.uris import local_path

THREADS = 8
CACHE_BYTES = 64 * 2**20
"""Size of the cache: about 150 images of 384 x 384 pixels as uint8, or 35 as float32."""

Version = tuple[str, int, int]
"""Path, size in bytes and modification time in nanoseconds of a file."""


class PixelCache:
    """A cache of the pixels that were used last, limited in bytes. Safe to share between threads."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[Version, Pixels] = OrderedDict()
        self._n_bytes = 0

    def get(self, version: Version) -> Pixels | None:
        """The pixels of that version of a file; None if they are not in the cache."""
        with self._lock:
            if version in self._known:
                self._known.move_to_end(version)
            return self._known.get(version)

    def put(self, version: Version, pixels: Pixels) -> None:
        """Add pixels, and remove those that were not used for the longest time."""
        with self._lock:
            if version not in self._known:
                self._known[version] = pixels
                self._n_bytes += _size(pixels)
            while self._n_bytes > self._limit_bytes:
                self._n_bytes -= _size(self._known.popitem(last=False)[1])

    @property
    def n_bytes(self) -> int:
        """Size of the cached pixels in bytes."""
        return self._n_bytes


class ImageOpener:
    """Opens images for the cross-encoder. Safe to share between threads.

    A file system that hangs keeps the threads that read from it; there are never more than `THREADS`.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._cache = PixelCache()
        self._pool = ThreadPoolExecutor(max(1, min(THREADS, available_cores())), "milvus-coop-open")
        tensors = [tensor for tensor in encoder.spec.graph(CROSS_ENCODER).inputs if tensor.name in IMAGE_SIDE]
        self.n_bytes = sum(int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in tensors)
        """Size of one image's pixels in bytes."""

    def open(self, uris: Sequence[str], deadline: Deadline = NEVER) -> list[Pixels | None]:
        """The cross-encoder's inputs for each image; None for an image that cannot be opened, or not before the deadline.

        Args:
            uris: the uris of rows.
            deadline: the moment at which opening stops.
        """
        futures = [self._pool.submit(self._open, uri) for uri in uris]
        try:
            done = wait(futures, deadline.wait_s()).done
            return [future.result() if future in done else None for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _open(self, uri: str) -> Pixels | None:
        path = local_path(uri)
        if path is None:
            return None
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would block forever
                return None
            version = (str(path), status.st_size, status.st_mtime_ns)
            if (known := self._cache.get(version)) is not None:
                return known
            pixels = self._encoder.ce_pixels([self._encoder.decode(path)])
        except (ImageError, OSError, ValueError, MemoryError):
            return None
        self._cache.put(version, pixels)
        return pixels


def _size(pixels: Pixels) -> int:
    return sum(array.nbytes for array in pixels.values())
