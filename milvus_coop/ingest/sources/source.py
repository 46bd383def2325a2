"""The interface of a source, and the sources that are images, folders of them, or prefixes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.ingest.items import Entry, Item
from milvus_coop.ingest.sources.files import PassOver, SourceFile
from milvus_coop.ingest.sources.remote import walk_remote
from milvus_coop.ingest.sources.walk import ANY_DEPTH, walk
from milvus_coop.models.preprocess.formats import SUFFIXES
from milvus_coop.types import Failure

Gone = Callable[[str, str], bool]
"""A function of an item's uri and id. It returns True if the item belonged to a source and no longer exists there."""


class Source(Protocol):
    """One source that the user named."""

    @property
    def distinct(self) -> bool:
        """True if no item comes twice, or if it does no harm."""

    @property
    def gone_by_ids(self) -> bool:
        """True if `gone` needs the ids of all items."""

    @property
    def is_quick(self) -> bool:
        """True if all items can be counted without reading much: no requests, and no shards."""

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The items of the source, in the same order each time, and a `Failure` for each part that cannot be read."""

    def gone(self, seen: Set[str]) -> Gone:
        """A function that recognises items that are gone; `seen` holds the ids that `entries` yielded."""


@dataclass(frozen=True, slots=True)
class SingleImage:
    """A single image file."""

    file: SourceFile
    distinct: ClassVar[bool] = True
    gone_by_ids: ClassVar[bool] = False
    is_quick: ClassVar[bool] = True

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The image."""
        yield Item(self.file.name, self.file.image)

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises no item, because naming a missing file is an error."""
        return lambda uri, key: False


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of images, or a glob below it."""

    root: Path
    parts: tuple[str, ...] = (ANY_DEPTH,)
    distinct: ClassVar[bool] = True
    gone_by_ids: ClassVar[bool] = False
    is_quick: ClassVar[bool] = True

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The images of the folder."""
        for found in walk(self.root, self.parts, pass_over=pass_over):
            yield found if isinstance(found, Failure) else Item(found.as_posix(), found)

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises items below the folder whose file no longer exists. An image that the glob no longer matches stays."""
        return lambda uri, key: is_below(uri, self.root.as_posix()) and is_missing(uri)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The images below a prefix of an object store, or those of a glob below it."""

    root: RemoteFile
    parts: tuple[str, ...] = (ANY_DEPTH,)
    distinct: ClassVar[bool] = True
    gone_by_ids: ClassVar[bool] = True
    is_quick: ClassVar[bool] = False

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The images of the prefix."""
        for found in walk_remote(self.root, self.parts, SUFFIXES, pass_over):
            yield found if isinstance(found, Failure) else Item(found.name, found)

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises items below the prefix that were not listed, and of which the store says that they do not exist."""

        def is_gone(uri: str, key: str) -> bool:
            if key in seen or not is_below(uri, self.root.name) or "#" in uri:
                return False
            try:
                return not self.root.below(uri[len(self.root.name) :].lstrip("/")).is_there()
            except OSError:  # an object that cannot be asked for still exists
                return False

        return is_gone


def is_below(uri: str, root: str) -> bool:
    """True if the uri is that of a file below a folder or prefix."""
    return uri.startswith(root.rstrip("/") + "/")


def is_missing(path: str | Path) -> bool:
    """True if there is no such file on this machine."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # a file that cannot be read still exists
        return False
    return False
