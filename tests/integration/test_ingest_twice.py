"""The same ingest runs twice at once, by mistake: the collection ends in the true state, or the second one fails clearly."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from milvus_coop import CoopIngest
from milvus_coop.ingest import ingest
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.store import Store
from milvus_coop.types import IngestReport

from .ingest_kit import DIM, SPEC, encoder, pictures

N = 150
RUNS = 2
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("twice"), N)


def test_two_at_once_into_one_collection(store_uri: str, folder: Path, tmp_path: Path) -> None:
    """Each has a connection of its own, and both begin before the collection exists."""
    together = threading.Barrier(RUNS, timeout=60)

    def run(number: int) -> IngestReport:
        place = tmp_path / str(number)
        place.mkdir()
        with Store(store_uri, timeout_s=60) as store:
            together.wait()
            collection = store.open_or_create("twice", SPEC, "image")
            together.wait()
            return ingest([folder], sink=collection, encoder=encoder(FakeBackend(SPEC, delays_s={"image_encoder": 0.02}), place))

    with ThreadPoolExecutor(RUNS) as pool:
        reports = list(pool.map(run, range(RUNS)))
    assert [(report.seen, report.failed) for report in reports] == [(N, 0)] * RUNS
    with Store(store_uri, timeout_s=60) as store:
        collection = store.open("twice", SPEC)
        ids = [key for key, _ in collection.all_stamps()]
        assert len(ids) == len(set(ids)) == collection.count() == N
        (found,) = collection.search(np.ones((1, DIM), dtype=np.float32), N)
        assert sorted(candidate.id for candidate in found) == sorted(ids)
        third = ingest([folder], sink=collection, encoder=encoder(FakeBackend(SPEC), tmp_path))
        assert (third.unchanged, third.added, third.updated) == (N, 0, 0)


def test_the_second_process_on_a_lite_folder_fails_clearly_or_waits(tmp_path: Path) -> None:
    folder, database = pictures(tmp_path / "pictures", 10), tmp_path / "lite.db"
    command = [sys.executable, "-m", "milvus_coop", "ingest", str(folder), "--uri", str(database)]
    with CoopIngest("images", uri=database) as first:
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2
        assert "another process has" in second.stderr
        assert "--wait" in second.stderr
        assert "Traceback" not in second.stderr
        third = subprocess.Popen([*command, "--wait", "60"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert first.run([folder]).added == 10
    said, _ = third.communicate(timeout=60)
    assert third.returncode == 0
    assert "10 unchanged" in said
