"""Each line of a list is an item or a named failure, and the ingest of the list ends with its counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from milvus_coop.errors import SourceError
from milvus_coop.ingest import ingest
from milvus_coop.ingest.items import Entry, Item
from milvus_coop.ingest.sources.files import LocalFile
from milvus_coop.ingest.sources.lists import read_list
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.types import Kind, StoredText
from tests.fuzz.lists import JSONL_FILES, csv_files
from tests.fuzz.runs import check_message, holds, lengths
from tests.integration.ingest_kit import SPEC, MemorySink, encoder

FIRST, LAST = b'{"path": "first.jpg"}', b'{"path": "last.jpg"}'
FIRST_TEXT, LAST_TEXT = b'{"text": "a first one"}', b'{"text": "a last one"}'


def check_entries(path: Path, entries: list[Entry]) -> None:
    lines = path.read_bytes().count(b"\n") + path.read_bytes().count(b"\r") + 1
    assert len(entries) <= lines
    for entry in entries:
        if isinstance(entry, Item):
            entry.uri.encode()
            (entry.text or "").encode()
        else:
            list_, _, number = entry.uri.rpartition(":")
            assert list_ == path.as_posix()
            assert 1 <= int(number) <= lines
            entry.reason.encode()
            assert len(entry.reason) < 1000


@pytest.mark.parametrize("kind", ["image", "text"])
@lengths(short=150, long=2000)
def test_lines_of_json(inputs: int, kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"

    def rule(lines: list[bytes]) -> None:
        path.write_bytes(b"\n".join([FIRST, *lines, LAST] if kind == "image" else [FIRST_TEXT, *lines, LAST_TEXT]))
        entries = list(read_list(LocalFile(path), kind))
        check_entries(path, entries)
        for entry, name in ((entries[0], "first"), (entries[-1], "last")):
            assert isinstance(entry, Item)
            assert name in ((entry.text or "") if kind == "text" else entry.uri)

    holds(rule, JSONL_FILES, inputs)


@pytest.mark.parametrize("kind", ["image", "text"])
@lengths(short=150, long=2000)
def test_tables(inputs: int, kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    read = 0

    def rule(content: bytes) -> None:
        nonlocal read
        path.write_bytes(content)
        try:
            entries = list(read_list(LocalFile(path), kind))
        except SourceError as exc:
            check_message(exc)
            return
        check_entries(path, entries)
        read += bool(entries)

    holds(rule, csv_files(kind), inputs)
    assert read > inputs // 10


@lengths(short=40, long=500)
def test_the_rest_of_a_list_is_ingested(inputs: int, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    encode = encoder(FakeBackend(SPEC), tmp_path)

    def rule(lines: list[bytes]) -> None:
        path.write_bytes(b"\n".join([FIRST_TEXT, *lines, LAST_TEXT]))
        sink = MemorySink()
        report = ingest(path, sink=sink, encoder=encode, kind="text")
        assert report.added == len(sink.held) >= 2
        assert {"a first one", "a last one"} <= {
            row.content.text for row in sink.held.values() if isinstance(row.content, StoredText)
        }
        images = ingest(path, sink=MemorySink(), encoder=encode)  # there is no file of any of them
        assert (images.added, images.updated, images.unchanged) == (0, 0, 0)
        assert images.failed >= 2

    holds(rule, JSONL_FILES, inputs)
