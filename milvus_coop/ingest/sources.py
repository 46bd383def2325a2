"""Sources of items: the folders, globs, files and lists that a user names. A source also knows which of its items are gone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from milvus_coop.errors import SourceError
from milvus_coop.ingest.items import Entry, Item, hash_of, hash_of_metadata, printable, uri_of
from milvus_coop.ingest.lists import LISTS, TEXTS, read_list
from milvus_coop.ingest.walk import ANY_DEPTH, PassOver, is_glob, matches, split_glob, suffix_of, walk
from milvus_coop.models.preprocess.formats import INSTALL_AVIF, INSTALL_HEIC, SUFFIXES
from milvus_coop.types import Failure, Kind

SHOWN = 300
"""Maximum number of characters of a source that an error repeats."""

AVIF = frozenset({".avif", ".avifs"})
HEIC = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})

Gone = Callable[[str, str], bool]
"""A function of an item's uri and id. It returns True if the item belonged to a source and no longer exists there."""


class Source(Protocol):
    """One source that the user named."""

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The items of the source, in the same order each time, and a `Failure` for each part that cannot be read.

        `pass_over` is called with each image that a folder or glob has and that is of a kind which cannot be read.
        """

    def gone(self, seen: Set[str]) -> Gone:
        """A function that recognises items that are gone; `seen` holds the ids that `entries` yielded."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A single image file."""

    path: Path

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The image."""
        yield Item(self.path.as_posix(), self.path)

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises no item, because naming a missing file is an error."""
        return lambda uri, key: False


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of images, or a glob below it."""

    root: Path
    parts: tuple[str, ...] = (ANY_DEPTH,)

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The images of the folder."""
        for found in walk(self.root, self.parts, pass_over=pass_over):
            yield found if isinstance(found, Failure) else Item(found.as_posix(), found)

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises items below the folder whose file no longer exists. An image that the glob no longer matches stays."""
        return lambda uri, key: _is_below(uri, self.root) and _is_missing(uri)


@dataclass(frozen=True, slots=True)
class PictureList:
    """A list of images."""

    path: Path

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The images of the list."""
        return _read(self.path, "image")

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises items that the list names and whose file no longer exists."""
        missing = {e.uri for e in self.entries() if isinstance(e, Item) and isinstance(e.image, Path) and _is_missing(e.image)}
        return lambda uri, key: uri in missing


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts, or a glob of such lists."""

    root: Path
    parts: tuple[str, ...] = ()

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The texts of the lists."""
        for found in walk(self.root, self.parts, TEXTS) if self.parts else (self.root,):
            if isinstance(found, Failure):
                yield found
            else:
                yield from _read(found, "text")

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises texts that are named after one of the lists and are no longer in it. Texts with their own uri always stay."""

        def is_gone(uri: str, key: str) -> bool:
            path = uri.rpartition("#")[0]
            if not self.parts:
                return path == self.root.as_posix() and key not in seen
            if not path or not _is_below(path, self.root):
                return False
            named = matches(self.parts, Path(path).relative_to(self.root).parts)
            return named and (key not in seen or _is_missing(path))

        return is_gone


class PassedOver:
    """Counts the images that folders pass over, by their suffix. An image that two sources name counts once."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._seen: set[str] = set()

    def __call__(self, path: Path) -> None:
        """Count one image."""
        if (name := path.as_posix()) not in self._seen:
            self._seen.add(name)
            self.counts[suffix_of(path.name)] += 1


def how_to_read(suffix: str) -> str:
    """The command that installs a decoder for files with that suffix; '' if there is none."""
    return INSTALL_HEIC if suffix in HEIC else INSTALL_AVIF if suffix in AVIF else ""


def listed(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """The sources as a list of paths and patterns. A single path is one source.

    Raises:
        SourceError: there are none, or one is empty or not a path.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if isinstance(sources, bytes) or not isinstance(sources, Iterable):
        raise SourceError(f"the sources are of type {type(sources).__name__}", expected="paths, as texts or Path objects")
    paths = []
    for source in sources:
        path = os.fspath(source) if isinstance(source, str | os.PathLike) else source
        if not isinstance(path, str):
            raise SourceError(f"a source is of type {type(source).__name__}", expected="a path, as text or a Path object")
        if not path.strip():
            raise SourceError("the name of a source is empty", expected="the path of a folder, a file or a list; . is this folder")
        paths.append(path)
    return paths


def open_sources(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], kind: Kind) -> list[Source]:
    """Open and check all sources before any work is done.

    Raises:
        SourceError: a source is missing, empty, of an unknown type, or cannot be read.
    """
    if not (paths := listed(sources)):
        raise SourceError("no sources were named", expected=_expected(kind))
    return [_checked(path, _open(path, kind), kind) for path in paths]


def check_sources(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], kind: Kind) -> None:
    """Check all sources; for the errors, see `open_sources`."""
    open_sources(sources, kind)


def read_sources(sources: Sequence[Source], seen: set[str], pass_over: PassOver | None = None) -> Iterator[Entry]:
    """The items of all sources, without repetition. `seen` is filled with their ids if an item could be repeated.

    `pass_over` is called with each image of a kind that cannot be read.

    Lists come first, because the metadata of a list counts even if a folder holds the same image. A repeated line is skipped. A
    list with two different lines for one uri yields a `Failure`.
    """
    alone = len(sources) == 1 and isinstance(sources[0], Folder)  # a single folder has no repetitions, so no ids are kept
    for source in sorted(sources, key=lambda source: not isinstance(source, PictureList)):
        said: dict[str, str] = {}
        for entry in source.entries(pass_over):
            if isinstance(entry, Item) and not alone:
                key = entry.id
                if isinstance(source, PictureList | Texts):
                    content = hash_of((entry.text or "").encode()) + hash_of_metadata(entry.metadata)
                    if said.setdefault(key, content) != content:
                        yield Failure(entry.uri, "the list names it more than once, with different content; the first line counts")
                        continue
                if key in seen:
                    continue
                seen.add(key)
            yield entry


def _open(source: str, kind: Kind) -> Source:
    try:
        return _opened(source, kind)
    except (OSError, ValueError) as exc:  # a name that is too long, a zero character, a folder that may not be entered
        if isinstance(exc, SourceError):
            raise
        raise SourceError(
            f"{_named(source)} cannot be read: {getattr(exc, 'strerror', None) or exc}", expected=_expected(kind)
        ) from exc


def _opened(source: str, kind: Kind) -> Source:
    if is_glob(source):
        root, parts = split_glob(source)
        root = Path(uri_of(root))
        return Texts(root, parts) if kind == "text" else Folder(root, parts)
    path = Path(uri_of(source))
    if not path.exists():
        raise SourceError(f"there is no {_named(path.as_posix())}", expected=_expected(kind))
    suffix = path.suffix.lower()
    if kind == "text" and path.is_file() and suffix in TEXTS:
        return Texts(path)
    if kind == "image" and path.is_dir():
        return Folder(path)
    if kind == "image" and suffix in LISTS:
        return PictureList(path)
    if kind == "image" and suffix in SUFFIXES:
        return PictureFile(path)
    raise SourceError(
        f"{_named(path.as_posix())} is {'a folder' if path.is_dir() else 'of another type'}",
        expected=_expected(kind),
        run=how_to_read(suffix) if kind == "image" and path.is_file() else "",
    )


def _checked(name: str, source: Source, kind: Kind) -> Source:
    passed = PassedOver()
    problem = ""
    for entry in source.entries(passed):
        # A list with a broken first line is a valid source. A folder that holds only unreadable folders is not, nor is a list whose
        # header cannot be used.
        if isinstance(entry, Item) or entry.uri.rpartition(":")[2].isdecimal():
            return source
        problem = problem or f": {entry.reason}"
    if not problem and passed.counts:
        problem = f": {', '.join(f'{n:,} {suffix}' for suffix, n in passed.counts.items())} cannot be read"
    run = next(filter(None, map(how_to_read, passed.counts)), "")
    raise SourceError(
        f"{_named(name)} has no {'images' if kind == 'image' else 'texts'}{problem}", expected=_expected(kind), run=run
    )


def _named(source: str) -> str:
    return printable(source)[:SHOWN]


def _read(path: Path, kind: Kind) -> Iterator[Entry]:
    try:
        yield from read_list(path, kind)
    except OSError as exc:
        yield Failure(printable(path.as_posix()), f"the list cannot be read: {exc.strerror or exc}")
    except SourceError as exc:
        yield Failure(printable(path.as_posix()), str(exc))


def _expected(kind: Kind) -> str:
    if kind == "image":
        return f"a folder, a glob, an image ({', '.join(sorted(SUFFIXES))}) or a list ({', '.join(sorted(LISTS))})"
    return f"a file of texts or a glob of them ({', '.join(sorted(TEXTS))})"


def _is_below(uri: str, root: Path) -> bool:
    return uri.startswith(root.as_posix().rstrip("/") + "/")


def _is_missing(path: str | Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # a file that cannot be read still exists
        return False
    return False
