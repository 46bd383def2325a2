"""The texts and images that `score` and `embed` take: the options, and the reading of the files that they name."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milvus_coop.cli.options import Command
from milvus_coop.errors import ImageUnreadableError, InvalidArgumentError, MilvusCoopError, reason_of

if TYPE_CHECKING:
    from milvus_coop.ingest import Item
    from milvus_coop.ingest.items import Entry
    from milvus_coop.ingest.sources import PassedOver, Reading, Source
    from milvus_coop.types import Failure

AHEAD = 8
"""Number of images that are read from elsewhere at the same time, and held in memory before they are used."""
_POSITION = re.compile(r"^image \d+:? ")
"""Matches the name that `CoopModel` gives to an image in memory."""


@dataclass(frozen=True, slots=True)
class NamedText:
    """One text."""

    text: str
    uri: str = ""
    """The uri that an ingest would give the text. '' for texts of the command line."""


@dataclass(frozen=True, slots=True)
class NamedImage:
    """One image."""

    uri: str
    file: Path | bytes
    """The path of a file of this machine; the content of a file elsewhere or in a shard or table."""

    @property
    def n_bytes(self) -> int:
        """The memory that the content takes, in bytes."""
        return 0 if isinstance(self.file, Path) else len(self.file)

    def emptied(self) -> NamedImage:
        """The image without its content, to be named later."""
        return self if isinstance(self.file, Path) else replace(self, file=b"")


@dataclass(slots=True)
class Inputs:
    """The texts and images that a command works on. Everything that is named exists. Folders are searched while images are read."""

    texts: list[NamedText]
    images: Iterator[NamedImage]
    failures: list[Failure] = field(default_factory=list)
    """Items of the sources that cannot be read. The list grows while `images` is iterated, and with each call of `failed`."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Number of images of kinds that cannot be read, by suffix. The counts grow while `images` is iterated."""

    def failed(self, image: NamedImage, error: Exception) -> None:
        """Add an image that cannot be used to the failures."""
        from milvus_coop.types import Failure

        if isinstance(image.file, Path):
            reason = str(error).partition(f"({image.file})")[2].lstrip(": ") or str(error)
        else:
            reason = _POSITION.sub("", str(error), count=1)
        self.failures.append(Failure(image.uri, reason))


def takes_texts_and_images(command: Command) -> Command:
    """Give a command `--text`, `--texts` and the images that it takes as arguments; see `open_inputs`."""
    for decorate in (
        click.option("--texts", "lists", multiple=True, metavar="FILE", help="A file of texts: .txt, .jsonl or .csv; repeatable."),
        click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text; repeatable."),
        click.option("--allow-http", is_flag=True, help="Fetch files at http:// and https:// addresses, but not private ones."),
        click.argument("images", nargs=-1),
    ):
        command = decorate(command)
    return command


def reading_of(allow_http: bool) -> Reading:
    """The options for reading files elsewhere."""
    from milvus_coop.ingest.sources import Reading, Web

    return Reading(Web() if allow_http else None)


def image_elsewhere(address: str, *, allow_http: bool) -> bytes | None:
    """The content of the image at an address of an object store or of HTTP; None if it is a path, or an address not supported.

    Raises:
        SourceError: the address cannot be used, or HTTP is not allowed.
        ImageUnreadableError: the image cannot be read from there.
    """
    from milvus_coop.ingest.sources import file_elsewhere
    from milvus_coop.models.preprocess.images import name_in_errors

    if (file := file_elsewhere(address, reading_of(allow_http))) is None:
        return None
    try:
        return file.open().read()
    except OSError as exc:
        raise ImageUnreadableError(f"{name_in_errors(address)} cannot be read: {reason_of(exc)}") from exc


def open_inputs(texts: Sequence[str], lists: Sequence[str], images: Sequence[str], *, allow_http: bool = False) -> Inputs:
    """The texts of the command line, then those of files, and the images.

    Raises:
        InvalidArgumentError: a text is blank or too long.
        SourceError: a source is missing, empty, or of another type.
    """
    from milvus_coop.ingest.sources import PassedOver, open_sources
    from milvus_coop.models.scoring.inputs import check_texts

    reading = reading_of(allow_http)
    listed = open_sources(lists, "text", reading) if lists else []
    sources = open_sources(images, "image", reading) if images else []
    inputs = Inputs([NamedText(text) for text in check_texts(texts)], iter(()))
    inputs.texts += _texts_of(listed, inputs.failures)
    passed = PassedOver()
    inputs.passed_over = passed.counts
    inputs.images = _images_of(sources, inputs.failures, passed)
    return inputs


def _texts_of(sources: Sequence[Source], failures: list[Failure]) -> Iterator[NamedText]:
    from milvus_coop.ingest.items import Item
    from milvus_coop.ingest.sources import read_sources
    from milvus_coop.models.preprocess.texts import check_text
    from milvus_coop.types import Failure

    for entry in read_sources(sources, set()):
        if not isinstance(entry, Item):
            failures.append(entry)
            continue
        try:
            check_text(text := entry.text or "")
        except InvalidArgumentError as exc:
            failures.append(Failure(entry.uri, str(exc)))
        else:
            yield NamedText(text, entry.uri)


def _images_of(sources: Sequence[Source], failures: list[Failure], passed: PassedOver) -> Iterator[NamedImage]:
    from milvus_coop.ingest.items import Item, checked
    from milvus_coop.ingest.sources import read_sources
    from milvus_coop.types import Failure

    entries = read_sources(sources, set(), passed)
    # A name that is not Unicode cannot be written to a file.
    for named, content in _with_contents(checked(entry) if isinstance(entry, Item) else entry for entry in entries):
        if isinstance(named, Failure):
            failures.append(named)
            continue
        try:
            yield NamedImage(named.uri, content.result())
        except MilvusCoopError as exc:
            failures.append(Failure(named.uri, str(exc)))
        except OSError as exc:
            failures.append(Failure(named.uri, f"cannot be read: {reason_of(exc)}"))


def _with_contents(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Future[Path | bytes]]]:
    """The entries in their order, with the files of the images. Threads read the next ones from elsewhere."""
    from milvus_coop.ingest.items import Item

    ahead: deque[tuple[Entry, Future[Path | bytes]]] = deque()
    pool = ThreadPoolExecutor(AHEAD, "milvus-coop-fetch")
    try:
        for entry in entries:
            content: Future[Path | bytes] = Future()
            if isinstance(entry, Item) and isinstance(entry.image, Path | bytes):
                content.set_result(entry.image)
            elif isinstance(entry, Item):
                content = pool.submit(_content, entry)
            ahead.append((entry, content))
            if len(ahead) > AHEAD:
                yield ahead.popleft()
        yield from ahead
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _content(item: Item) -> bytes:
    from milvus_coop.ingest.images import StoredImage

    if not isinstance(item.image, StoredImage):
        raise ImageUnreadableError("the item has no image")
    with item.image.open() as file:
        return file.read()


def exit_code(done: int, failed: int) -> int:
    """The exit code. 0: all fine; 1: some items failed and the others did not; 2: nothing could be done."""
    if not failed:
        return 0
    return 1 if done else 2
