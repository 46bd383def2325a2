"""The ingest pipeline on a collection in memory: counts, changes, failures, prune, and what breaks it off."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milvus_coop import CoopIngest, Item
from milvus_coop.bundle import load_bundle
from milvus_coop.config import Settings
from milvus_coop.cores import available_cores
from milvus_coop.elsewhere.location import parse_location
from milvus_coop.errors import BackendTimeoutError, InvalidArgumentError, SourceError, StoreError, TokenStoreError
from milvus_coop.ingest import IngestInterrupted, Progress, ingest, ingest_items
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.models.open import open_models
from milvus_coop.models.preprocess.images import decode
from milvus_coop.models.tokens import arrange
from milvus_coop.models.tokens import decode as decode_tokens
from milvus_coop.store.layout import string_of
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Array, IngestReport, Kind, Row, StoredText, TokenFile

from .ingest_kit import SPEC, MemorySink, encoder, picture, pictures


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(SPEC)


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    stages = ("milvus-coop-decode", "milvus-coop-lookup", "milvus-coop-encode", "milvus-coop-write", "milvus-coop-count")
    assert not [t.name for t in threading.enumerate() if t.name.startswith(stages)]


class Run:
    """Ingests into one sink with one backend."""

    def __init__(self, sink: MemorySink, backend: FakeBackend, folder: Path) -> None:
        self.sink = sink
        self.encoder = encoder(backend, folder)
        self.progress: list[Progress] = []

    def __call__(
        self, *sources: str | Path, kind: Kind = "image", prune: bool = False, force: bool = False, batch: int = 16
    ) -> IngestReport:
        return ingest(
            sources,
            sink=self.sink,
            encoder=self.encoder,
            kind=kind,
            prune=prune,
            force=force,
            batch=batch,
            on_progress=self.progress.append,
        )


@pytest.fixture
def run(sink: MemorySink, backend: FakeBackend, tmp_path: Path) -> Run:
    return Run(sink, backend, tmp_path)


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.removed, report.failed


def test_rows_are_what_the_encoder_says_of_the_picture(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    path = picture(tmp_path / "p" / "a.png", seed=5)
    assert counts(run(tmp_path / "p")) == (1, 0, 0, 0, 0)
    (row,) = sink.held.values()
    alone = run.encoder.encode_images([decode(path)])
    assert row.uri == str(path)
    assert (row.size, row.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert len(row.digest) == 64
    np.testing.assert_allclose(row.embedding, alone.embeddings[0], atol=1e-6)
    np.testing.assert_array_equal(arrange([decode_tokens(string_of(row.content), SPEC.tokens)], SPEC.tokens)[0], alone.tokens)


def test_batches_and_threads_change_nothing(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 150)
    assert counts(run(folder, batch=7)) == (150, 0, 0, 0, 0)
    first, sink.held = sink.held, {}
    assert counts(run(folder, batch=64)) == (150, 0, 0, 0, 0)
    assert first.keys() == sink.held.keys()
    for key, row in sink.held.items():
        assert row.content == first[key].content
        np.testing.assert_allclose(row.embedding, first[key].embedding, atol=1e-6)


def test_a_second_run_encodes_only_what_changed(run: Run, sink: MemorySink, backend: FakeBackend, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 20)
    run(folder)
    backend.rows.clear()
    assert counts(run(folder)) == (0, 0, 20, 0, 0)
    assert backend.rows == {}
    assert sink.upserts == [20]

    changed, touched = folder / "0" / "00000.png", folder / "1" / "00001.png"
    picture(changed, seed=999)
    os.utime(touched, ns=(1, 1))
    picture(folder / "new.png", seed=1000)
    assert counts(run(folder)) == (1, 1, 19, 0, 0)
    assert backend.rows == {"image_encoder": 2}
    assert counts(run(folder, force=True)) == (0, 21, 0, 0, 0)


def test_same_size_and_time_but_other_content_is_trusted(run: Run, tmp_path: Path) -> None:
    """What `force` is for; reading every file on every run would cost too much."""
    path = tmp_path / "p" / "a.bmp"
    picture(path, seed=1)
    run(tmp_path / "p")
    before = path.stat()
    picture(path, seed=2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert counts(run(tmp_path / "p")) == (0, 0, 1, 0, 0)
    assert counts(run(tmp_path / "p", force=True)) == (0, 1, 0, 0, 0)


def test_changed_metadata_updates_and_a_folder_leaves_metadata_alone(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    path = picture(tmp_path / "p" / "a.png")
    source = tmp_path / "list.jsonl"
    source.write_text(json.dumps({"path": "p/a.png", "year": 1, "x": 2}))
    assert counts(run(source)) == (1, 0, 0, 0, 0)
    source.write_text(json.dumps({"path": "p/a.png", "x": 2, "year": 1}))
    assert counts(run(source)) == (0, 0, 1, 0, 0)
    source.write_text(json.dumps({"path": "p/a.png", "year": 2}))
    assert counts(run(source)) == (0, 1, 0, 0, 0)
    os.utime(path, ns=(1, 1))
    assert counts(run(tmp_path / "p")) == (0, 0, 1, 0, 0)
    picture(path, seed=7)
    report = run(tmp_path / "p")  # replacing the row would lose the metadata
    assert counts(report) == (0, 0, 0, 0, 1)
    assert "ingest that list" in report.failures[0].reason
    (row,) = sink.held.values()
    assert row.metadata == {"year": 2}
    assert counts(run(tmp_path / "p", source)) == (0, 1, 0, 0, 0)


def test_a_name_that_is_no_unicode_fails_alone(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 3)
    run(folder)
    picture(folder / os.fsdecode(b"caf\xe9.png"))
    (folder / "0" / "00000.png").unlink()
    report = run(folder, prune=True)
    assert counts(report) == (0, 0, 2, 1, 1)
    assert "Unicode" in report.failures[0].reason


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(run: Run, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 30)
    good = next(folder.rglob("*.png"))
    (folder / "truncated.png").write_bytes(good.read_bytes()[:-30])
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.gif").write_bytes(b"")
    (folder / "folder.jpg").mkdir()  # is only a folder
    (folder / "dangling.jpg").symlink_to(folder / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")  # opening it would wait for ever
    bomb = bytearray(picture(folder / "bomb.bmp").read_bytes())
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2
    (folder / "bomb.bmp").write_bytes(bomb)
    (folder / "notes.md").write_text("ignored")
    report = run(folder)
    assert counts(report) == (30, 0, 0, 0, 6)
    reasons = {Path(f.uri).name: f.reason for f in report.failures}
    assert reasons["pipe.jpg"] == "is not a regular file"
    assert reasons["empty.gif"].startswith("the file is empty")
    assert reasons["text.jpg"].startswith("not an image; expected: one of JPEG")
    assert "No such file" in reasons["dangling.jpg"]
    assert "truncated" in reasons["truncated.png"]
    assert "60,000 x 60,000 pixels are too many; expected: at most" in reasons["bomb.bmp"]
    assert all(str(folder) not in reason for reason in reasons.values())


def listed_with(folder: Path, **metadata: object) -> Path:
    lines = [json.dumps({"path": str(path), **metadata}) for path in sorted(folder.rglob("*.png"))]
    (folder / "list.jsonl").write_text("\n".join(lines))
    return folder / "list.jsonl"


def test_other_metadata_does_not_encode_an_image_again(run: Run, sink: MemorySink, backend: FakeBackend, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 300)
    assert counts(run(listed_with(folder, year=1, place="Paris"))) == (300, 0, 0, 0, 0)
    before = dict(sink.held)
    backend.rows.clear()
    assert counts(run(listed_with(folder, year=2))) == (0, 300, 0, 0, 0)
    assert backend.rows == {}
    assert [row.metadata for row in sink.held.values()] == [{"year": 2}] * 300
    for key, row in sink.held.items():
        assert (row.embedding == before[key].embedding).all()
        assert (row.content, row.uri, row.mtime_ns) == (before[key].content, before[key].uri, before[key].mtime_ns)
    assert counts(run(listed_with(folder, year=2))) == (0, 0, 300, 0, 0)
    assert counts(run(listed_with(folder, year=3), force=True)) == (0, 300, 0, 0, 0)
    assert backend.rows == {"image_encoder": 300}


def test_a_file_with_another_time_is_read_once_more_and_no_further(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 20)
    run(listed_with(folder, year=1))
    for path in folder.rglob("*.png"):
        os.utime(path, (1_000_000, 1_000_000))
    assert counts(run(folder)) == (0, 0, 20, 0, 0)
    assert {(row.mtime_ns, row.metadata["year"]) for row in sink.held.values()} == {(10**15, 1)}, "the metadata of the list stays"
    opened: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("milvus_coop.ingest.images.LocalImage.open", lambda self: opened.append(self.path))
        assert counts(run(folder)) == (0, 0, 20, 0, 0)
    assert opened == []


def test_other_metadata_of_a_row_that_is_gone_meanwhile(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 20)
    run(listed_with(folder, year=1))
    gone = list(sink.held)[:5]
    stamps = sink.stamps(list(sink.held))
    sink.stamps = lambda ids: {key: stamps[key] for key in ids}  # type: ignore[method-assign]
    sink.delete(gone)
    assert counts(run(listed_with(folder, year=2))) == (0, 20, 0, 0, 0)
    assert [row.metadata for row in sink.held.values()] == [{"year": 2}] * 20


def test_other_metadata_of_a_row_that_somebody_changed_meanwhile(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 5)
    run(listed_with(folder, year=1))
    before = dict(sink.held)
    stamps = sink.stamps(list(sink.held))
    sink.stamps = lambda ids: {key: stamps[key] for key in ids}  # type: ignore[method-assign]
    first = next(iter(before))
    sink.held[first] = replace(before[first], digest="0" * 64, embedding=-before[first].embedding)
    assert counts(run(listed_with(folder, year=2))) == (0, 5, 0, 0, 0)
    for key, row in sink.held.items():
        assert row.digest[:32] == before[key].digest[:32]
        np.testing.assert_allclose(row.embedding, before[key].embedding, atol=1e-6)


def test_other_metadata_of_a_text(run: Run, sink: MemorySink, backend: FakeBackend, tmp_path: Path) -> None:
    source = tmp_path / "list.jsonl"
    source.write_text('{"text": "a dog", "uri": "u", "n": 1}\n')
    run(source, kind="text")
    backend.rows.clear()
    source.write_text('{"text": "a dog", "uri": "u", "n": 2}\n')
    assert counts(run(source, kind="text")) == (0, 1, 0, 0, 0)
    assert backend.rows == {}
    source.write_text('{"text": "a dog", "uri": "u"}\n')
    assert counts(run(source, kind="text")) == (0, 1, 0, 0, 0)
    assert [row.metadata for row in sink.held.values()] == [{}]
    assert counts(run(source, kind="text")) == (0, 0, 1, 0, 0)


def test_items_of_a_slow_source_do_not_wait_for_many(
    run: Run, sink: MemorySink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milvus_coop.ingest.pipeline.HURRY_S", 0.2)
    monkeypatch.setattr("milvus_coop.ingest.pipeline.CHUNK_S", 0.05)
    paths = sorted(pictures(tmp_path / "p", 40).rglob("*.png"))
    told: list[int] = []

    def slowly() -> Iterator[Item]:
        for path in paths:
            time.sleep(0.05)
            yield Item(str(path), path)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        ingest_items(slowly(), sink=run.sink, encoder=run.encoder, on_progress=lambda progress: told.append(progress.added))
    assert len(sink.held) >= 20
    assert len(set(told)) > 3, "it tells its progress meanwhile"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_two_images_of_a_list_with_one_uri(run: Run, tmp_path: Path, suffix: str) -> None:
    first, second = sorted(pictures(tmp_path / "p", 2).rglob("*.png"))
    rows = [(first, "album"), (first, "album"), (second, "album")]
    lines = [f"{path},{uri}" if suffix == "csv" else json.dumps({"path": str(path), "uri": uri}) for path, uri in rows]
    (tmp_path / f"list.{suffix}").write_text("\n".join(["path,uri", *lines] if suffix == "csv" else lines))
    report = run(tmp_path / f"list.{suffix}")
    assert counts(report) == (1, 0, 0, 0, 1)
    assert report.failures[0].reason.startswith("the list names it more than once, with different content")


def test_sources_may_be_file_uris(run: Run, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "with blank", 4)
    assert counts(run(folder.as_uri())) == (4, 0, 0, 0, 0)
    assert counts(run(next(folder.rglob("*.png")).as_uri())) == (0, 0, 1, 0, 0)
    with pytest.raises(SourceError, match=r"there is no .*file:"):
        run("file://server/photos")


def test_a_text_that_is_too_long_is_named_by_its_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog\n" + "x" * 29_999 + "\na cat\n")
    report = run(tmp_path / "captions.txt", kind="text")
    assert counts(report) == (2, 0, 0, 0, 1)
    assert report.failures[0].uri == f"{tmp_path}/captions.txt:2"


def test_an_unreadable_file_and_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "p", 8)
    locked = folder / "0" / "00000.png"
    real_open, real_scandir = Path.open, os.scandir

    def refuse_open(self: Path, *args: object, **options: object) -> object:
        if self == locked:
            raise PermissionError(13, "Permission denied")
        return real_open(self, *args, **options)  # type: ignore[call-overload]

    def refuse_scandir(path: Path) -> object:
        if path == folder / "3":
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    # Tests run as root, whom no permission stops.
    monkeypatch.setattr(Path, "open", refuse_open)
    monkeypatch.setattr(os, "scandir", refuse_scandir)
    report = run(folder)
    assert counts(report) == (6, 0, 0, 0, 2)
    assert {(Path(f.uri).name, f.reason) for f in report.failures} == {
        ("00000.png", "cannot be read: Permission denied"),
        ("3", "the folder cannot be listed: Permission denied"),
    }


def test_a_socket_is_no_picture(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "p", 1)
    monkeypatch.chdir(tmp_path / "p")  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")
        assert counts(run(tmp_path / "p")) == (1, 0, 0, 0, 1)


def test_prune_removes_what_is_gone_and_nothing_else(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder, other = pictures(tmp_path / "p", 14), pictures(tmp_path / "other", 3)
    run(folder, other)
    shutil.rmtree(folder / "0")
    (other / "1" / "00001.png").unlink()
    assert counts(run(folder)) == (0, 0, 12, 0, 0)
    assert counts(run(folder, prune=True)) == (0, 0, 12, 2, 0)
    assert len(sink.held) == 15
    assert str(other / "1" / "00001.png") in sink.uris()
    assert counts(run(other / "**" / "*.png", folder / "1", prune=True)) == (0, 0, 4, 1, 0)


def test_prune_never_follows_a_walk_that_failed(
    run: Run, sink: MemorySink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "p", 14)
    run(folder)
    (folder / "0" / "00000.png").unlink()
    real_scandir = os.scandir

    def refuse(path: Path) -> object:
        if path == folder / "3":
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = run(folder, prune=True)
    assert counts(report) == (0, 0, 11, 0, 1)
    assert report.failures[0].reason.endswith("(and so nothing was pruned)")
    assert len(sink.held) == 14
    monkeypatch.undo()
    assert counts(run(folder, prune=True)) == (0, 0, 13, 1, 0)


def test_an_emptied_folder_is_an_error_and_is_not_pruned(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 3)
    run(folder)
    shutil.rmtree(folder)
    folder.mkdir()  # like the mount point of a disk that is away
    with pytest.raises(SourceError, match="has no images"):
        run(folder, prune=True)
    assert len(sink.held) == 3


def test_a_broken_picture_keeps_its_old_row(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 3)
    run(folder)
    (folder / "0" / "00000.png").write_bytes(b"half")
    assert counts(run(folder, prune=True)) == (0, 0, 2, 0, 1)
    assert len(sink.held) == 3


def test_texts(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    source = tmp_path / "captions.txt"
    source.write_text("a dog\na cat\na dog\n" + "x" * 20_001 + "\n" + "😀" * 17_000 + "\n")
    report = run(source, kind="text")
    assert counts(report) == (2, 0, 0, 0, 2)
    assert ["20,001 characters" in report.failures[0].reason, "68,000 bytes" in report.failures[1].reason] == [True, True]
    dog = next(row for row in sink.held.values() if row.content == StoredText("a dog"))
    np.testing.assert_allclose(dog.embedding, run.encoder.encode_texts(["a dog"]).embeddings[0], atol=1e-6)
    assert (dog.size, dog.mtime_ns) == (5, 0)
    source.write_text("a bird\na cat\n")
    assert counts(run(source, kind="text", prune=True)) == (1, 0, 1, 1, 0)
    assert sorted(string_of(row.content) for row in sink.held.values()) == ["a bird", "a cat"]


def test_a_text_with_a_uri_is_updated(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    source.write_text('{"text": "a dog", "uri": "u", "n": 1}\n')
    assert counts(run(source, kind="text")) == (1, 0, 0, 0, 0)
    source.write_text('{"text": "a cat", "uri": "u", "n": 1}\n')
    assert counts(run(source, kind="text")) == (0, 1, 0, 0, 0)
    source.write_text('{"text": "a cat", "uri": "u", "n": 2}\n')
    assert counts(run(source, kind="text", prune=True)) == (0, 1, 0, 0, 0)
    (row,) = sink.held.values()
    assert (row.content, row.metadata) == (StoredText("a cat"), {"n": 2})


def test_one_broken_line_at_the_end_of_a_list_loses_nothing(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 20)
    lines = [json.dumps({"path": str(path), "n": i}) for i, path in enumerate(sorted(folder.rglob("*.png")))]
    source = tmp_path / "list.jsonl"
    source.write_text(
        "\n".join([*lines[:18], '{"path": "p/x.png", "gps": {"lat": 1e400}}', '{"path": "file://[bad/x.jpg"}', *lines[18:]])
    )
    report = run(source)
    assert counts(report) == (20, 0, 0, 0, 2)
    assert [f.uri for f in report.failures] == [f"{source}:19", f"{source}:20"]
    (folder / "drawing.svg").write_text("<svg/>")
    assert run(folder).passed_over == {".svg": 1}


def test_a_file_of_the_far_future(tmp_path: Path) -> None:
    """Milvus keeps 63 bits of its time, and a wrong clock may set any time."""
    folder = pictures(tmp_path / "p", 3)
    first = min(folder.rglob("*.png"))
    os.utime(first, (13_569_465_600, 13_569_465_600))
    if first.stat().st_mtime < 13_000_000_000:
        pytest.skip("this file system has no such times")
    with CoopIngest("images", uri=tmp_path / "lite.db", models=FakeBackend(load_bundle("coop-small").spec)) as ingest:
        assert ingest.run([folder]).added == 3
        assert ingest.run([folder]).unchanged == 3
        os.utime(first, (13_569_465_601, 13_569_465_601))
        assert ingest.run([folder]).unchanged == 3  # the content is the same


def test_a_list_names_no_file_of_another_machine(run: Run, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 2)
    first, second = sorted(folder.rglob("*.png"))
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": f"file://server{first}"}) + "\n" + json.dumps({"uri": second.as_uri()}))
    report = run(tmp_path / "list.jsonl")
    assert counts(report) == (1, 0, 0, 0, 1)
    (failure,) = report.failures
    assert failure.reason.startswith("line 1: 'file://server/")
    assert failure.reason.endswith("' is a file of another machine")


@pytest.mark.parametrize("threads", [1, np.int64(2), 1000])
def test_threads_are_bounded_by_the_cores(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, threads: int) -> None:
    most = 0

    def count(progress: Progress) -> None:
        nonlocal most
        most = max(most, sum(t.name.startswith("milvus-coop-decode") for t in threading.enumerate()))

    folder = pictures(tmp_path / "p", 60)
    ingest(folder, sink=run.sink, encoder=run.encoder, threads=threads, on_progress=count)
    assert most <= min(threads, 4 * available_cores())
    assert (f"threads is 1000; {4 * available_cores()} are used" in caplog.text) == (threads == 1000)


def test_progress_ends_with_the_report(run: Run, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 40)
    (folder / "bad.png").write_bytes(b"")
    report = run(folder)
    last = run.progress[-1]
    assert (last.seen, last.done, last.added, last.failed) == (41, 41, report.added, report.failed)
    assert last.total in (41, None)
    assert all(a.done <= b.done and b.done <= b.seen for a, b in zip(run.progress, run.progress[1:], strict=False))


class Flaky(FakeBackend):
    """Fails after 48 pictures."""

    error = BackendTimeoutError("the model server did not answer in time")

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        if self.rows.get(graph, 0) >= 48:
            raise self.error
        return super().run(graph, inputs, timeout_s=timeout_s)


def test_a_failing_encoder_ends_the_run_and_keeps_what_was_encoded(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 100)
    with pytest.raises(BackendTimeoutError) as caught:
        Run(sink, Flaky(SPEC), tmp_path)(folder)
    assert caught.value is Flaky.error
    assert len(sink.held) == 48
    assert counts(run(folder)) == (52, 0, 48, 0, 0)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_failing_store_ends_the_run(run: Run, sink: MemorySink, tmp_path: Path, at: int) -> None:
    folder = pictures(tmp_path / "p", 400)
    sink.fail_at_upsert = at
    with pytest.raises(StoreError, match="disk is full"):
        run(folder)
    assert len(sink.held) == 128 * at
    sink.fail_at_upsert = None
    assert counts(run(folder)) == (400 - 128 * at, 0, 128 * at, 0, 0)


def test_a_failing_lookup_ends_the_run(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    sink.fail_lookups = True
    with pytest.raises(StoreError, match="disk is full"):
        run(pictures(tmp_path / "p", 30))


def test_ctrl_c_keeps_what_was_done_and_reports_it(sink: MemorySink, backend: FakeBackend, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 300)
    backend.delays_s["image_encoder"] = 0.02

    def interrupt(progress: Progress) -> None:
        if backend.rows.get("image_encoder", 0) >= 100:
            raise KeyboardInterrupt

    with pytest.raises(IngestInterrupted) as caught:
        ingest([folder], sink=sink, encoder=encoder(backend, tmp_path), on_progress=interrupt)
    done = backend.rows["image_encoder"]
    assert 100 <= done < 300
    assert (caught.value.report.added, len(sink.held)) == (done, done)
    backend.delays_s.clear()
    report = ingest([folder], sink=sink, encoder=encoder(backend, tmp_path))
    assert counts(report) == (300 - done, 0, done, 0, 0)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": 5000}, {"threads": -1}, {"threads": 5000}])
def test_wrong_numbers(sink: MemorySink, backend: FakeBackend, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}; expected: "):
        ingest([tmp_path], sink=sink, encoder=encoder(backend, tmp_path), **wrong)  # type: ignore[arg-type]


def test_a_source_error_comes_before_any_work(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        run(pictures(tmp_path / "p", 3), tmp_path / "missing")
    assert sink.looked_up == 0


def test_memory_does_not_grow_with_the_number_of_pictures(backend: FakeBackend, tmp_path: Path) -> None:
    class Forgetful(MemorySink):
        def upsert(self, rows: object) -> None:
            pass

    def peak(n: int) -> int:
        folder = pictures(tmp_path / f"{n}", n)
        tracemalloc.start()
        try:
            ingest([folder], sink=Forgetful(), encoder=encoder(backend, tmp_path))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(300)  # caches of Pillow and NumPy fill
    # The smaller of two peaks, because Python's table of names, which has those of all paths, may grow by 4 MB in any of them.
    few, many = peak(500), min(peak(2500), peak(2500))
    # Names of files and the looked-up chunks (at most 2,048 items) take 0.5 kB an item; the pixels of 2,000 more would take 6 MB.
    assert many - few < 2_000_000


def test_a_picture_of_photo_size_is_shrunk_while_it_is_decoded(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    path = tmp_path / "p" / "photo.jpg"
    path.parent.mkdir()
    y, x = np.mgrid[0:960, 0:1280]
    Image.fromarray(np.stack([x / 5, y / 4, (x + y) / 9], axis=-1).astype(np.uint8)).save(path)
    run(tmp_path / "p")
    (row,) = sink.held.values()
    full = run.encoder.encode_images([decode(path)]).embeddings[0]
    assert float(row.embedding @ full) > 0.999


class Paired(FakeBackend):
    """Runs the image encoder only when two callers want it at once."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.pairs = threading.Barrier(2, timeout=20)

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        self.pairs.wait()
        return super().run(graph, inputs, timeout_s=timeout_s)


def test_two_runs_at_once_share_a_batch_and_change_nothing(run: Run, sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 64)
    run(folder)
    two = MemorySink()
    ingest([folder], sink=two, encoder=encoder(Paired(), tmp_path, runs=2), batch=16)
    assert list(two.held) == list(sink.held)
    assert all((two.held[id].embedding == row.embedding).all() for id, row in sink.held.items())
    assert all(two.held[id].content == row.content for id, row in sink.held.items())


def test_what_one_run_encoded_is_kept_when_another_fails(sink: MemorySink, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 100)
    backend = Flaky(SPEC)
    with pytest.raises(BackendTimeoutError) as caught:
        ingest([folder], sink=sink, encoder=encoder(backend, tmp_path, runs=2), batch=16)
    assert caught.value is Flaky.error
    assert len(sink.held) == backend.rows["image_encoder"]


KEEPS_FILES = replace(SPEC, tokens=replace(SPEC.tokens, keep="store"))


class Checked(MemorySink):
    """Refuses rows whose token file is not there yet."""

    def __init__(self, tokens: TokenStore) -> None:
        super().__init__()
        self.tokens = tokens

    def upsert(self, rows: Sequence[Row]) -> None:
        keys = [row.content.key for row in rows if isinstance(row.content, TokenFile)]
        assert len(keys) == len(rows)
        assert None not in self.tokens.read(keys, KEEPS_FILES.tokens.n_bytes)
        super().upsert(rows)


@pytest.fixture
def tokens(tmp_path: Path) -> TokenStore:
    return TokenStore.at(parse_location(str(tmp_path / "tokens")))


def test_token_files_are_written_beside_the_encoder_and_before_their_rows(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, began = pictures(tmp_path / "p", 300), threading.Semaphore(0)
    writers: set[str] = set()

    class Eager(FakeBackend):
        def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
            began.release()
            return super().run(graph, inputs, timeout_s=timeout_s)

    write = TokenStore.write

    def late(self: TokenStore, files: Mapping[str, bytes]) -> None:
        if not writers:  # the first files are written while later batches are encoded
            assert all(began.acquire(timeout=20) for _ in range(3))
        writers.add(threading.current_thread().name)
        write(self, files)

    monkeypatch.setattr(TokenStore, "write", late)
    sink = Checked(tokens)
    report = ingest([folder], sink=sink, encoder=encoder(Eager(KEEPS_FILES), tmp_path), tokens=tokens)
    assert (report.added, len(sink.held)) == (300, 300)
    assert len(writers) == 1


def test_no_row_is_written_without_its_token_file(tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sink, write, left = pictures(tmp_path / "p", 400), Checked(tokens), TokenStore.write, [12]

    def full(self: TokenStore, files: Mapping[str, bytes]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise TokenStoreError("the disk is full")
        write(self, files)

    monkeypatch.setattr(TokenStore, "write", full)
    with pytest.raises(TokenStoreError, match="disk is full"):
        ingest([folder], sink=sink, encoder=encoder(FakeBackend(KEEPS_FILES), tmp_path), tokens=tokens)
    assert len(sink.held) == 128
    left[0] = 400
    assert ingest([folder], sink=sink, encoder=encoder(FakeBackend(KEEPS_FILES), tmp_path), tokens=tokens).added == 400 - 128


def test_runs_at_once_share_the_threads_of_this_process() -> None:
    assert open_models(Settings()).encoder.runs == 1
    assert open_models(Settings(), runs=2).encoder.runs == min(2, available_cores())
    assert open_models(Settings(threads=1), runs=2).encoder.runs == 1
    assert open_models(Settings(), FakeBackend(load_bundle("coop-small").spec), runs=2).encoder.runs == 1
