"""WebDataset shards: tar files in which the files of one item have the same name up to its first point.

`key.jpg` is an image; `key.json` and `key.txt` beside it are its metadata, the text under the name `caption`. In a collection of
texts, `key.txt` is the item. A shard is read once from its start to its end, and the files of one key are held at a time.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from milvus_coop.elsewhere.outages import may_pass
from milvus_coop.ingest.items import Entry, Item, checked
from milvus_coop.ingest.sources.files import PassOver, SourceFile
from milvus_coop.ingest.sources.walk import OTHER_IMAGES
from milvus_coop.models.preprocess.formats import SUFFIXES
from milvus_coop.printable import escaped
from milvus_coop.store.metadata import is_taken
from milvus_coop.types import Failure, Kind

SHARDS = frozenset({".tar"})
MEMBER_BYTES = 256 * 2**20
"""Maximum size of the files of one key, which are held together."""
CAPTION = "caption"
"""Name of the metadata that holds a `.txt` file, as in what img2dataset writes."""
_NAME = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]+)", re.DOTALL)
"""Matches the name of a file: its key, and what follows the first point. Hidden files do not match."""


@dataclass(slots=True)
class _Sample:
    """The files of one key."""

    key: str
    n_bytes: int = 0
    images: list[tuple[str, bytes]] = field(default_factory=list)
    """The rest of a name after its key, and the content."""
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class _Header(tarfile.TarInfo):
    """A header of a tar file. A damaged one is an error wherever it stands; tarfile takes it for the end of the file."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as exc:
            if isinstance(exc, getattr(tarfile, "EOFHeaderError")):  # noqa: B009 - the right end: a block of zeros
                raise
            raise tarfile.ReadError(str(exc) if buf else "its end is missing") from exc


def read_shard(file: SourceFile, kind: Kind, pass_over: PassOver | None = None) -> Iterator[Entry]:
    """The items of a shard. Their uri is `<shard>#<key>`, or `<shard>#<key>.<suffix>` if one key has several images.

    Yields:
        Items; a `Failure` for each that cannot be used; and a `Failure` that names the shard if its end is missing or damaged.

    Raises:
        OSError: the shard cannot be opened.
    """
    n = 0
    with file.stream() as stream:
        try:
            for sample in _samples(stream, kind, file, pass_over):
                for entry in _entries(sample, kind, file, pass_over):
                    n += isinstance(entry, Item)
                    yield entry
        except (tarfile.TarError, OSError, EOFError, ValueError) as exc:
            yield Failure(escaped(file.name), f"the shard is damaged after {n:,} items: {exc}", may_pass(exc))


def _samples(stream: IO[bytes], kind: Kind, file: SourceFile, pass_over: PassOver | None) -> Iterator[_Sample]:
    sample: _Sample | None = None
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined] # tarfile keeps every header
            name = member.name.removeprefix("./")
            if not member.isreg() or (matched := _NAME.fullmatch(name)) is None:
                continue
            key, extension = matched.groups()
            if sample is not None and sample.key != key:
                yield sample
                sample = None
            if sample is None:
                sample = _Sample(key)
            _add(sample, extension, member, tar, kind, file, pass_over)
    if sample is not None:
        yield sample


def _add(
    sample: _Sample,
    extension: str,
    member: tarfile.TarInfo,
    tar: tarfile.TarFile,
    kind: Kind,
    file: SourceFile,
    pass_over: PassOver | None,
) -> None:
    """Read one file of a sample, if it is of a kind that is used."""
    suffix = f".{extension.rpartition('.')[2].lower()}"
    wanted = extension.lower() in {"txt", "json"} or (kind == "image" and suffix in SUFFIXES)
    if not wanted:
        if pass_over and kind == "image" and suffix in OTHER_IMAGES:
            pass_over(suffix, f"{file.name}#{member.name}")
        return
    sample.n_bytes += member.size
    if sample.n_bytes > MEMBER_BYTES:
        sample.problem = f"its files have more than {MEMBER_BYTES:,} bytes"
        sample.images.clear()
        return
    opened = tar.extractfile(member)
    content = opened.read() if opened else b""
    if suffix in SUFFIXES:
        sample.images.append((extension, content))
        return
    try:
        if extension.lower() == "txt":
            sample.text = content.decode("utf-8-sig")
        else:
            sample.metadata = _metadata(content)
    except (ValueError, RecursionError) as exc:
        sample.problem = f"{member.name} cannot be read: {exc}"


def _metadata(content: bytes) -> dict[str, Any]:
    row = json.loads(content.decode("utf-8-sig"), parse_constant=lambda _: None)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _entries(sample: _Sample, kind: Kind, file: SourceFile, pass_over: PassOver | None) -> Iterator[Entry]:
    uri = f"{file.name}#{sample.key}"
    if not sample.images and (kind == "image" or sample.text is None) and not sample.problem:
        return  # files of another kind
    if sample.problem:
        yield Failure(escaped(uri), sample.problem)
        return
    metadata = {}
    for name, value in sample.metadata.items():
        if is_taken(name):
            if pass_over:
                pass_over(f"key '{name[:80]}' of .json files, a name that the collection uses", f"key {name}")
        elif value is not None:
            metadata[name] = value
    if kind == "text":
        yield checked(Item(uri, text=(sample.text or "").strip(), metadata=metadata), escaped(uri))
        return
    if sample.text is not None:
        metadata.setdefault(CAPTION, sample.text.strip())
    for extension, content in sample.images:
        name = uri if len(sample.images) == 1 else f"{uri}.{extension}"
        yield checked(Item(name, content, metadata=metadata), escaped(name))
