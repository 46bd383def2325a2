"""Ingest into a real Milvus Lite: killed and interrupted at any point, it ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milvus_coop.ingest import ingest
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.store import Store
from milvus_coop.types import IngestReport

from .ingest_kit import DIM, SPEC, encoder, picture, pictures

N_PICTURES = 600
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 pictures, two of them broken."""
    folder = pictures(tmp_path_factory.mktemp("pictures"), N_PICTURES - 2)
    (folder / "0" / "broken.png").write_bytes(b"broken")
    (folder / "empty.png").write_bytes(b"")
    return folder


def run(database: Path, folder: Path, **options: Any) -> IngestReport:
    with Store(database) as store:
        collection = store.open_or_create("images", SPEC, "image")
        return ingest([folder], sink=collection, encoder=encoder(FakeBackend(SPEC), database.parent), **options)


def content(database: Path) -> dict[str, tuple[Any, ...]]:
    """Everything in the collection: stamps, contents, and the score of a fixed query, which tells the embeddings apart."""
    with Store(database) as store:
        collection = store.open_or_create("images", SPEC, "image")
        query = np.ones((1, DIM), dtype=np.float32) / DIM**0.5
        (found,) = collection.search(query, 2 * N_PICTURES)
        stamps = list(collection.all_stamps())
        assert len(stamps) == len({key for key, _ in stamps}) == collection.count() == len(found)
        scores = {c.id: (c.content, round(c.be_score, 4)) for c in found}
        return {key: (stamp, *scores[key]) for key, stamp in stamps}


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    database = tmp_path_factory.mktemp("undisturbed") / "lite.db"
    report = run(database, folder)
    assert (report.added, report.failed) == (N_PICTURES - 2, 2)
    return content(database)


class Started:
    """The same ingest in a process of its own, slow enough to be hit in the middle."""

    def __init__(self, database: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.integration.ingest_kit", str(database), str(folder)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def lines(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        yield from map(json.loads, self.process.stdout)

    def wait_until(self, added: int) -> None:
        next(line for line in self.lines() if line.get("added", 0) >= added)

    def end(self, with_signal: signal.Signals) -> int:
        self.process.send_signal(with_signal)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def test_killed_three_times_it_ends_like_an_undisturbed_run(
    folder: Path, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    database = tmp_path / "lite.db"
    random = np.random.default_rng()
    for added in (0, 1, int(random.integers(2, 130))):
        started = Started(database, folder)
        started.wait_until(added)
        time.sleep(float(random.uniform(0, 0.15)))  # anywhere: between writes or in one
        assert started.end(signal.SIGKILL) == -signal.SIGKILL
    report = run(database, folder)
    assert report.seen == N_PICTURES
    assert report.unchanged >= 128  # the second run got that far before it was killed
    assert content(database) == undisturbed
    assert run(database, folder).unchanged == N_PICTURES - 2


def test_ctrl_c_ends_cleanly_and_keeps_what_was_done(folder: Path, tmp_path: Path) -> None:
    database = tmp_path / "lite.db"
    started = Started(database, folder)
    started.wait_until(1)
    started.process.send_signal(signal.SIGINT)
    interrupted = [line["interrupted"] for line in started.lines() if "interrupted" in line]
    assert started.end(signal.SIGINT) == 130
    assert interrupted[0] >= 128
    report = run(database, folder)
    assert (report.unchanged, report.added) == (interrupted[0], N_PICTURES - 2 - interrupted[0])


def test_changes_deletions_and_metadata_arrive(folder: Path, tmp_path: Path) -> None:
    database, album = tmp_path / "lite.db", pictures(tmp_path / "album", 12)
    run(database, album)
    (album / "1" / "00001.png").unlink()
    picture(album / "2" / "00002.png", seed=99)
    report = run(database, album, prune=True)
    assert (report.added, report.updated, report.unchanged, report.removed) == (0, 1, 10, 1)
    source = tmp_path / "list.jsonl"
    source.write_text(json.dumps({"path": "album/3/00003.png", "year": 2020, "title": 'quotes " and \\ 猫'}))
    assert run(database, source).updated == 1
    with Store(database) as store:
        collection = store.open("images", SPEC)
        (found,) = collection.search(np.ones((1, DIM), dtype=np.float32), 5, filter="year > 2000", output_fields=["title"])
        assert [dict(c.fields) for c in found] == [{"title": 'quotes " and \\ 猫'}]
        assert collection.count() == 11
