"""The texts and images that `score` and `embed` take: the options, and the reading of the files that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milvus_coop.cli.options import Command
from milvus_coop.errors import InvalidArgumentError

if TYPE_CHECKING:
    from milvus_coop.ingest.sources import PassedOver, Source
    from milvus_coop.types import Failure


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
    path: Path


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

        _, _, reason = str(error).partition(f"({image.path})")
        self.failures.append(Failure(image.uri, reason.lstrip(": ") or str(error)))


def takes_texts_and_images(command: Command) -> Command:
    """Give a command `--text`, `--texts` and the images that it takes as arguments; see `open_inputs`."""
    for decorate in (
        click.option("--texts", "lists", multiple=True, metavar="FILE", help="A file of texts: .txt, .jsonl or .csv; repeatable."),
        click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text; repeatable."),
        click.argument("images", nargs=-1),
    ):
        command = decorate(command)
    return command


def open_inputs(texts: Sequence[str], lists: Sequence[str], images: Sequence[str]) -> Inputs:
    """The texts of the command line, then those of files, and the images.

    Raises:
        InvalidArgumentError: a text is blank or too long.
        SourceError: a source is missing, empty, or of another type.
    """
    from milvus_coop.ingest.sources import PassedOver, open_sources
    from milvus_coop.models.scoring.inputs import check_texts

    listed = open_sources(lists, "text") if lists else []
    sources = open_sources(images, "image") if images else []
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

    for entry in read_sources(sources, set(), passed):
        named = checked(entry) if isinstance(entry, Item) else entry  # a name that is not Unicode cannot be written to a file
        if not isinstance(named, Item):
            failures.append(named)
        elif isinstance(named.image, Path):
            yield NamedImage(named.uri, named.image)
        else:
            failures.append(Failure(named.uri, "not a file of this machine, and only `milvus-coop ingest` reads from elsewhere"))


def exit_code(done: int, failed: int) -> int:
    """The exit code. 0: all fine; 1: some items failed and the others did not; 2: nothing could be done."""
    if not failed:
        return 0
    return 1 if done else 2
