"""The files that sources name: images, and documents that hold items. Here: those of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from milvus_coop.ingest.images import ImageLike

if TYPE_CHECKING:
    from milvus_coop.ingest.sources.http import Web

PassOver = Callable[[str, str], None]
"""A function that is called with what is passed over: its kind, and its name. A name counts once; '' counts each time."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Options for reading sources."""

    web: Web | None = None
    """Fetches http:// and https:// addresses. If it is None, they are refused."""
    image_column: str | None = None
    """The column of tables that holds images. None means a column with a usual name, if there is one."""


class SourceFile(Protocol):
    """A file that a source names."""

    @property
    def name(self) -> str:
        """The absolute path or the address; the uri of an image."""

    @property
    def image(self) -> ImageLike:
        """The file as the image of an item."""

    def stream(self) -> IO[bytes]:
        """The file, opened for reading. Raises OSError."""

    def beside(self, path: str) -> SourceFile:
        """The file with that path, relative to the folder of this one. Raises ValueError if there can be none."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    @property
    def name(self) -> str:
        """The absolute path."""
        return self.path.as_posix()

    @property
    def image(self) -> Path:
        """The path."""
        return self.path

    def stream(self) -> IO[bytes]:
        """The file."""
        return self.path.open("rb")

    def beside(self, path: str) -> LocalFile:
        """The file with that path."""
        return LocalFile(Path(os.path.abspath(os.path.join(self.path.parent, path))))  # noqa: PTH100, PTH118 - links are not followed


class PassedOver:
    """Counts what sources pass over, by its kind: images that cannot be read by their suffix, columns, rows without an image."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._seen: set[str] = set()

    def __call__(self, kind: str, name: str = "") -> None:
        """Count one thing of that kind. A name that two sources give counts once."""
        if name and name in self._seen:
            return
        if name:
            self._seen.add(name)
        self.counts[kind] = self.counts.get(kind, 0) + 1
