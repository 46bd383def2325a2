"""Sources that are documents: lists, tables and shards, each of which holds or names many items."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.outages import may_pass
from milvus_coop.errors import SourceError
from milvus_coop.ingest.items import Entry, Item
from milvus_coop.ingest.sources.files import LocalFile, PassOver, Reading, SourceFile
from milvus_coop.ingest.sources.lists import LISTS, TEXTS, read_list
from milvus_coop.ingest.sources.remote import walk_remote
from milvus_coop.ingest.sources.shards import SHARDS, read_shard
from milvus_coop.ingest.sources.source import Gone, is_below, is_missing
from milvus_coop.ingest.sources.tables import TABLES, holds_images, read_table
from milvus_coop.ingest.sources.walk import matches, suffix_of, walk
from milvus_coop.printable import escaped
from milvus_coop.types import Failure, Kind

DOCUMENTS = {"image": LISTS | TABLES | SHARDS, "text": TEXTS | TABLES | SHARDS}
"""Suffixes of the documents that hold items of each kind."""
LARGEST_RANGE = 10_000_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")

Find = Callable[[], Iterator[SourceFile | Failure]]


@dataclass(frozen=True, slots=True)
class Document:
    """One document."""

    file: SourceFile
    kind: Kind
    reading: Reading

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The items of the document, and a `Failure` with its name if it cannot be read."""
        suffix, name = suffix_of(self.file.name), escaped(self.file.name)
        try:
            if suffix in TABLES:
                yield from read_table(self.file, self.kind, self.reading, pass_over)
            elif suffix in SHARDS:
                yield from read_shard(self.file, self.kind, pass_over)
            else:
                yield from read_list(self.file, self.kind, self.reading)
        except OSError as exc:
            reason = f"the {_called(suffix)} cannot be read: {exc.strerror or exc}"
            yield Failure(name, reason, may_pass(exc))
        except SourceError as exc:
            yield Failure(name, str(exc))


@dataclass(frozen=True, slots=True)
class Documents:
    """The items of one document, or of those that a pattern names."""

    pattern: str
    """The name of the document, or the pattern."""
    find: Find
    """Finds the documents."""
    names: Callable[[str], bool]
    """True if a document with that name belongs to the source."""
    kind: Kind
    reading: Reading

    @property
    def distinct(self) -> bool:
        """False for lists, in which lines are often repeated."""
        return suffix_of(self.pattern) in TABLES | SHARDS

    @property
    def gone_by_ids(self) -> bool:
        """True: items are named after their document."""
        return True

    @property
    def is_quick(self) -> bool:
        """True for lists of this machine."""
        return suffix_of(self.pattern) not in TABLES | SHARDS and "://" not in self.pattern

    def entries(self, pass_over: PassOver | None = None) -> Iterator[Entry]:
        """The items of the documents."""
        for found in self.documents():
            if isinstance(found, Failure):
                yield found
            else:
                yield from found.entries(pass_over)

    def documents(self) -> Iterator[Document | Failure]:
        """The documents, and a `Failure` for each folder that cannot be searched for them."""
        return (found if isinstance(found, Failure) else Document(found, self.kind, self.reading) for found in self.find())

    def hold_items(self) -> bool:
        """True if the documents hold large items, and False if they name images that are elsewhere, or hold texts in lines.

        The first table shows it for all tables of the source.
        """
        suffix = suffix_of(self.pattern)
        if suffix in SHARDS or self.kind == "text":
            return suffix in SHARDS
        first = next(self.find(), None) if suffix in TABLES else None
        return first is not None and not isinstance(first, Failure) and holds_images(first, self.reading)

    def gone(self, seen: Set[str]) -> Gone:
        """Recognises items that are named after a document and are no longer in it, and named images whose file is missing.

        Items with a uri of their own stay, and so do images in object stores and at http:// addresses.
        """
        lists = suffix_of(self.pattern) not in SHARDS and self.kind == "image"
        files = ((e.uri, e.image) for e in (self.entries() if lists else ()) if isinstance(e, Item))
        missing = {uri for uri, image in files if isinstance(image, Path) and is_missing(image)}
        if self.kind == "image" and self.distinct is False:
            return lambda uri, key: uri in missing

        def is_gone(uri: str, key: str) -> bool:
            if key in seen:
                return uri in missing
            return uri in missing or any(self.names(uri[: found.start()]) for found in re.finditer("#", uri))

        return is_gone


def one_document(file: SourceFile, kind: Kind, reading: Reading) -> Documents:
    """A single document."""
    return Documents(file.name, lambda: iter((file,)), lambda name: name == file.name, kind, reading)


def document_glob(root: Path | RemoteFile, parts: tuple[str, ...], kind: Kind, reading: Reading) -> Documents:
    """The documents below a folder or prefix that a pattern names."""
    suffixes = DOCUMENTS[kind]
    base = root.as_posix() if isinstance(root, Path) else root.name

    def find() -> Iterator[SourceFile | Failure]:
        if isinstance(root, RemoteFile):
            yield from walk_remote(root, parts, suffixes)
        else:
            yield from (found if isinstance(found, Failure) else LocalFile(found) for found in walk(root, parts, suffixes))

    def names(name: str) -> bool:
        return is_below(name, base) and matches(parts, tuple(name[len(base.rstrip("/")) + 1 :].split("/")))

    return Documents(f"{base}/{'/'.join(parts)}", find, names, kind, reading)


def document_range(pattern: str, open_file: Callable[[str], SourceFile], kind: Kind, reading: Reading) -> Documents:
    """The documents that a pattern with `{000000..000999}` names, as WebDataset writes it."""

    def find() -> Iterator[SourceFile | Failure]:
        return (open_file(name) for name in expanded(pattern))

    around = re.split(_BRACES, pattern)[::3]
    shape = re.compile(r"\d+".join(map(re.escape, around)))
    return Documents(pattern, find, lambda name: shape.fullmatch(name) is not None, kind, reading)


def has_range(source: str) -> bool:
    """True if the name has a range of numbers in braces."""
    return _BRACES.search(source) is not None


def expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern with ranges gives, in order. Numbers have the width of the first one of their range.

    Raises:
        SourceError: a range ends before it begins, or is very long.
    """
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < LARGEST_RANGE:
        raise SourceError(f"the range {found.group()[:60]} cannot be used", expected=f"{{000000..000999}}, up to {LARGEST_RANGE:,}")
    for number in range(int(first), int(last) + 1):
        for rest in expanded(pattern[found.end() :]):
            yield f"{pattern[: found.start()]}{number:0{len(first)}}{rest}"


def _called(suffix: str) -> str:
    return "table" if suffix in TABLES else "shard" if suffix in SHARDS else "list"
