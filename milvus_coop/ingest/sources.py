"""What a user names, folders, globs, files and lists, as sources of items; and which items a source has lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from milvus_coop.errors import SourceError
from milvus_coop.ingest.items import Entry, Item, hash_of, hash_of_metadata, uri_of
from milvus_coop.ingest.lists import LISTS, TEXTS, read_list
from milvus_coop.ingest.walk import ANY_DEPTH, PICTURES, is_glob, matches, split_glob, walk
from milvus_coop.types import Failure, Kind

Gone = Callable[[str, str], bool]
"""Tells from an item's uri and id whether it was of a source and is no more."""


class Source(Protocol):
    """One thing that the user named."""

    def entries(self) -> Iterator[Entry]:
        """Its items, the same in the same order each time, and what of it cannot be read."""

    def gone(self, seen: Set[str]) -> Gone:
        """What tells lost items; `seen` holds the ids that `entries` yielded."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A single picture."""

    path: Path

    def entries(self) -> Iterator[Entry]:
        """The picture."""
        yield Item(self.path.as_posix(), path=self.path)

    def gone(self, seen: Set[str]) -> Gone:
        """Nothing: a missing file is an error when it is named."""
        return lambda uri, key: False


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of pictures, or a glob below it."""

    root: Path
    parts: tuple[str, ...] = (ANY_DEPTH,)

    def entries(self) -> Iterator[Entry]:
        """Its pictures."""
        for found in walk(self.root, self.parts):
            yield found if isinstance(found, Failure) else Item(found.as_posix(), path=found)

    def gone(self, seen: Set[str]) -> Gone:
        """Items below the folder whose file does not exist any more. A picture that is there but no longer named stays."""
        return lambda uri, key: _is_below(uri, self.root) and _is_missing(uri)


@dataclass(frozen=True, slots=True)
class PictureList:
    """A list of pictures."""

    path: Path

    def entries(self) -> Iterator[Entry]:
        """Its pictures."""
        return _read(self.path, "image")

    def gone(self, seen: Set[str]) -> Gone:
        """Items that the list names and whose file does not exist any more."""
        missing = {e.uri for e in self.entries() if isinstance(e, Item) and e.path and _is_missing(e.path)}
        return lambda uri, key: uri in missing


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts, or a glob of such lists."""

    root: Path
    parts: tuple[str, ...] = ()

    def entries(self) -> Iterator[Entry]:
        """Their texts."""
        for found in walk(self.root, self.parts, TEXTS) if self.parts else (self.root,):
            if isinstance(found, Failure):
                yield found
            else:
                yield from _read(found, "text")

    def gone(self, seen: Set[str]) -> Gone:
        """Texts named after one of the lists that stand in it no more. Texts with a uri of their own always stay."""

        def is_gone(uri: str, key: str) -> bool:
            path = uri.rpartition("#")[0]
            if not self.parts:
                return path == self.root.as_posix() and key not in seen
            if not path or not _is_below(path, self.root):
                return False
            named = matches(self.parts, Path(path).relative_to(self.root).parts)
            return named and (key not in seen or _is_missing(path))

        return is_gone


def open_sources(sources: Sequence[str | Path], kind: Kind) -> list[Source]:
    """Check everything that was named, before any work is done.

    Raises:
        SourceError: one is missing, empty, of an unknown type, or cannot be read.
    """
    if not sources:
        raise SourceError("no sources were named", expected=_expected(kind))
    return [_checked(str(source), _open(str(source), kind), kind) for source in sources]


def check_sources(sources: Sequence[str | Path], kind: Kind) -> None:
    """Only check what was named; see `open_sources` for the errors."""
    open_sources(sources, kind)


def read_sources(sources: Sequence[Source], seen: set[str]) -> Iterator[Entry]:
    """The items of all sources, each once. Fills `seen` with their ids where an item can come twice.

    Lists come first: what they say of a picture counts, also where a folder holds it too. A repeated line is skipped; a list that
    says two things of one uri is at fault.
    """
    alone = len(sources) == 1 and isinstance(sources[0], Folder)  # it cannot repeat itself: memory stays flat
    for source in sorted(sources, key=lambda source: not isinstance(source, PictureList)):
        said: dict[str, str] = {}
        for entry in source.entries():
            if isinstance(entry, Item) and not alone:
                key = entry.id
                if isinstance(source, PictureList | Texts):
                    content = hash_of(entry.text.encode()) + hash_of_metadata(entry.metadata)
                    if said.setdefault(key, content) != content:
                        yield Failure(entry.uri, "the list names it more than once, with different content; the first line counts")
                        continue
                if key in seen:
                    continue
                seen.add(key)
            yield entry


def _open(source: str, kind: Kind) -> Source:
    if is_glob(source):
        root, parts = split_glob(source)
        root = Path(uri_of(root))
        return Texts(root, parts) if kind == "text" else Folder(root, parts)
    path = Path(uri_of(source))
    if not path.exists():
        raise SourceError(f"there is no {path}", expected=_expected(kind))
    suffix = path.suffix.lower()
    if kind == "text" and path.is_file() and suffix in TEXTS:
        return Texts(path)
    if kind == "image" and path.is_dir():
        return Folder(path)
    if kind == "image" and suffix in LISTS:
        return PictureList(path)
    if kind == "image" and suffix in PICTURES:
        return PictureFile(path)
    raise SourceError(f"{path} is {'a folder' if path.is_dir() else 'of another type'}", expected=_expected(kind))


def _checked(name: str, source: Source, kind: Kind) -> Source:
    problem = ""
    for entry in source.entries():
        # A list with a broken first line is a list; a folder with nothing but unreadable folders in it is no source.
        if isinstance(entry, Item) or entry.uri.startswith(f"{name}:"):
            return source
        problem = problem or f": {entry.reason}"
    raise SourceError(f"{name} has no {'pictures' if kind == 'image' else 'texts'}{problem}", expected=_expected(kind))


def _read(path: Path, kind: Kind) -> Iterator[Entry]:
    try:
        yield from read_list(path, kind)
    except (OSError, SourceError) as exc:
        yield Failure(path.as_posix(), f"the list cannot be read: {exc}")


def _expected(kind: Kind) -> str:
    if kind == "image":
        return f"a folder, a glob, a picture ({', '.join(sorted(PICTURES))}) or a list ({', '.join(sorted(LISTS))})"
    return f"a file of texts or a glob of them ({', '.join(sorted(TEXTS))})"


def _is_below(uri: str, root: Path) -> bool:
    return uri.startswith(root.as_posix().rstrip("/") + "/")


def _is_missing(path: str | Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # unreadable is not gone
        return False
    return False
