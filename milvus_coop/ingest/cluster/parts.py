"""Parts of sources: what one worker ingests at a time. A part is a document that holds its items, or a run of items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from milvus_coop.elsewhere.objects import RemoteFile, Version
from milvus_coop.errors import ImageError
from milvus_coop.ingest.images import HALF, stored
from milvus_coop.ingest.items import Entry, Item, hash_of_metadata
from milvus_coop.ingest.sources import Document, Documents, PassedOver, PassOver, Source, read_sources
from milvus_coop.types import Failure

LENGTH = 512
"""Maximum number of items in a part, unless it is a document."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the sources."""

    number: int
    """Its place in this run."""
    key: str
    """32 hex digits that change when a file or a line of the part does; '' if nothing tells that, as at http:// addresses."""
    name: str
    """The address of the document, or that of the first item."""
    given: Sequence[Entry] = ()
    document: Document | None = None

    def without_items(self) -> Part:
        """The part with what names it only."""
        return replace(self, given=(), document=None)

    def entries(self, pass_over: PassOver) -> Iterable[Entry]:
        """The items."""
        return self.given if self.document is None else self.document.entries(pass_over)


@dataclass(frozen=True, slots=True)
class Finished:
    """A part that a run has finished."""

    items: int
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Rest:
    """The counts of everything in the sources that is in no part of this run."""

    passed: Mapping[str, int] = field(default_factory=dict)
    """The number of images, columns, ... that were passed over, by kind."""
    skipped: int = 0
    """Number of items in parts that an earlier run finished."""
    skipped_failed: int = 0
    """Number of those that had failed."""


def read_parts(sources: Sequence[Source], length: int, finished: Mapping[str, Finished]) -> Iterator[Part | Rest]:
    """The parts of all sources that are not finished, and then the rest."""
    passed, skipped, failed = PassedOver(), 0, 0
    for number, (key, name, content) in enumerate(_all_parts(sources, length, passed)):
        if (done := finished.get(key)) is not None:
            skipped, failed = skipped + done.items, failed + done.failed
        elif isinstance(content, Document):
            yield Part(number, key, name, document=content)
        else:
            yield Part(number, key, name, content)
    yield Rest(passed.counts, skipped, failed)


def _all_parts(sources: Sequence[Source], length: int, passed: PassedOver) -> Iterator[tuple[str, str, Document | Sequence[Entry]]]:
    """Key, name and content of each part."""
    whole = [source for source in sources if isinstance(source, Documents) and source.hold_items()]
    seen: set[str] = set()
    for source in whole:
        for found in source.documents():
            if isinstance(found, Failure):
                yield "", found.uri, [found]
            elif found.file.name not in seen:
                seen.add(found.file.name)
                version = _version(found.file.image, ask=True)
                yield "" if version is None else _digest([f"{found.file.name} {version}"]), found.file.name, found
    others = [source for source in sources if source not in whole]
    for entries in cut(read_sources(others, set(), passed) if others else (), length):
        yield _key(entries), entries[0].uri, entries


def cut(entries: Iterable[Entry], length: int) -> Iterator[list[Entry]]:
    """The entries in lists of `length / 4` to `length`.

    A list ends at an item whose id says so, if it is long enough. So an item that is added or removed changes the lists around it,
    and not all that follow.
    """
    some: list[Entry] = []
    for entry in entries:
        some.append(entry)
        marked = isinstance(entry, Item) and int(entry.id, 16) % max(1, length // 2) == 0
        if len(some) >= length or (marked and len(some) >= length // 4):
            yield some
            some = []
    if some:
        yield some


def _key(entries: Sequence[Entry]) -> str:
    if any(isinstance(entry, Failure) for entry in entries):
        return ""
    items = (entry for entry in entries if isinstance(entry, Item))
    return _digest(f"{item.uri}\n{_version(item.image)}\n{item.text}\n{hash_of_metadata(item.metadata)}" for item in items)


def _digest(lines: Iterable[str]) -> str:
    """A hash of texts and their lengths."""
    total = hashlib.sha256()
    for line in lines:
        content = line.encode(errors="surrogatepass")
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()[:HALF]


def _version(image: object, *, ask: bool = False) -> Version | None:
    """The version of a file; that of an object only if it is known, or if the store may be asked."""
    try:
        if isinstance(image, RemoteFile):
            return image.version() if ask else image.known
        if isinstance(image, str | Path):
            return stored(image).version()  # type: ignore[union-attr]
    except (OSError, ImageError):
        return None
    return None
