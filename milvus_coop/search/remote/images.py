"""Images of candidates and queries as they are sent: small JPEG files, made from images below the roots only.

A row may have been written by somebody else. It must not be able to send any other file of this machine to the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from enum import Enum
from pathlib import Path

from milvus_coop.deadline import Deadline
from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.roots import SHOWN_AT_ONCE
from milvus_coop.elsewhere.thumbnails import Thumbnails
from milvus_coop.errors import ImageError
from milvus_coop.models.preprocess.images import MAX_PIXELS
from milvus_coop.servers.parts import EDGE


class Unsent(Enum):
    """Why the content of a candidate is not sent."""

    BELOW_NO_ROOT = "its uri names no file below a root"
    UNREADABLE = "it cannot be read, or not in time"


class CandidateImages:
    """Opens the images of candidates. Safe to share between threads.

    A file system that hangs keeps the threads that read from it; there are never more than `SHOWN_AT_ONCE`.

    Args:
        folders: folders whose images may be sent, with symbolic links resolved.
        prefixes: prefixes of object stores whose images may be sent.
        max_pixels: see `decode`.
    """

    def __init__(self, folders: Sequence[Path], prefixes: Sequence[RemoteFile], max_pixels: int = MAX_PIXELS) -> None:
        self._thumbnails = Thumbnails(folders, prefixes, max_pixels)
        self._pool = ThreadPoolExecutor(SHOWN_AT_ONCE, "milvus-coop-send")

    def open(self, uris: Sequence[str], end: Deadline) -> list[bytes | Unsent]:
        """The JPEG of each uri.

        Args:
            uris: the uris of rows.
            end: the moment at which opening stops.

        Returns:
            For each uri the JPEG, or the reason why there is none.
        """
        futures = [self._pool.submit(self._open, uri, end) for uri in uris]
        try:
            done = wait(futures, end.wait_s()).done
            return [future.result() if future in done else Unsent.UNREADABLE for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _open(self, uri: str, end: Deadline) -> bytes | Unsent:
        try:
            original = self._thumbnails.original(uri)
            if original is None:
                files = self._thumbnails.elsewhere(uri)
                if not files:
                    return Unsent.BELOW_NO_ROOT
                limits = [replace(file, limit_s=end.within(file.limit_s or 0.0)) for file in files]
                original = self._thumbnails.remote_original(limits)
            return Unsent.UNREADABLE if original is None else self._thumbnails.make(original, EDGE)
        except (ImageError, OSError, ValueError, MemoryError):
            return Unsent.UNREADABLE

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
