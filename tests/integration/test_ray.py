"""The ingest on Ray: a real Ray of this machine with two workers gives what the local engine gives, also if a worker dies."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from milvus_coop import CoopIngest, CoopSearch, Settings, load_bundle
from milvus_coop.errors import BackendUnavailableError
from milvus_coop.ingest import Progress, TooManyFailuresError, ingest_with_ray
from milvus_coop.store import CollectionOptions, Store
from milvus_coop.types import IngestReport, Row
from tests.servers import s3
from tests.servers.milvus import MilvusServer

pytest.importorskip("ray.data")

import ray

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own

SAMPLES = Path(__file__).parents[2] / "examples" / "images"
N_SAMPLES = 61
DEADLY = Path(__file__).parents[1] / "servers" / "deadly"
"""Makes Ray's workers die of an image that holds `DEADLY`."""


@pytest.fixture(scope="module", autouse=True)
def _ray(s3_server: str) -> Iterator[None]:
    """A Ray of this machine, whose processes know the S3 store from their environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join((str(DEADLY), os.environ.get("PYTHONPATH", ""))))
        ray.init(address="local", num_cpus=2, include_dashboard=False)
        yield
        ray.shutdown()


def run(source: str | Path | list[str | Path], uri: str | Path, **options: Any) -> IngestReport:
    options = {"workers": 2, "length": 16, **options}
    settings = Settings(uri=str(uri), threads=1, bundle=options.pop("bundle", "coop-small"))
    return ingest_with_ray(source, settings=settings, **options)


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.removed, report.failed


def rows(uri: str | Path) -> dict[str, Row]:
    with Store(uri) as store:
        return {row.id: row for page in store.open("images").all_rows() for row in page}


def hits(uri: str | Path) -> list[str]:
    with CoopSearch(uri=uri) as search:
        return [hit.uri for query in ("a dog", "a boat on the sea") for hit in search.query(query, limit=5)]


def same(first: dict[str, Row], second: dict[str, Row]) -> None:
    assert first.keys() == second.keys()
    for id, row in first.items():
        other = second[id]
        assert (row.uri, row.digest, row.size, row.mtime_ns, row.metadata) == (
            other.uri,
            other.digest,
            other.size,
            other.mtime_ns,
            other.metadata,
        )
        np.testing.assert_allclose(row.embedding, other.embedding, atol=1e-5)  # batches differ


def kill_a_worker() -> None:
    """Kill one process that encodes."""
    for process in psutil.Process().children(recursive=True):
        if "MapWorker" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return
    raise AssertionError("there is no worker to kill")


class KillOnce:
    """Kills a worker when the first items are done."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, progress: Progress) -> None:
        if not self.done and progress.done:
            kill_a_worker()
        self.done = progress.done


def copies(folder: Path, n: int) -> Path:
    """n copies of sample images under other names."""
    folder.mkdir()
    samples = sorted(SAMPLES.glob("*.jpg"))
    for i in range(n):
        shutil.copy(samples[i % len(samples)], folder / f"{i:05}.jpg")
    return folder


def test_a_folder(tmp_path: Path) -> None:
    progress: list[Progress] = []
    pinned = f"coop-small@{load_bundle('coop-small').spec.fingerprint}"
    report = run(SAMPLES, tmp_path / "ray.db", on_progress=progress.append, bundle=pinned)
    assert counts(report) == (N_SAMPLES, 0, 0, 0, 0)
    assert progress[-1].done == N_SAMPLES
    with CoopIngest(uri=tmp_path / "local.db") as ingest:
        assert counts(ingest.run(SAMPLES)) == (N_SAMPLES, 0, 0, 0, 0)
    same(rows(tmp_path / "ray.db"), rows(tmp_path / "local.db"))
    assert hits(tmp_path / "ray.db") == hits(tmp_path / "local.db")


def test_a_prefix_and_a_second_run(tmp_path: Path) -> None:
    bucket = f"s3://{s3.bucket('for-ray')}/photos"
    for path in SAMPLES.glob("*.jpg"):
        s3.put(f"{bucket}/{path.name}", path.read_bytes())
    n = len(list(SAMPLES.glob("*.jpg")))
    assert counts(run(bucket, tmp_path / "ray.db")) == (n, 0, 0, 0, 0)
    with CoopIngest(uri=tmp_path / "local.db") as ingest:
        ingest.run(bucket)
    before = rows(tmp_path / "ray.db")
    same(before, rows(tmp_path / "local.db"))
    assert hits(tmp_path / "ray.db") == hits(tmp_path / "local.db")
    s3.put(f"{bucket}/dog.jpg", (SAMPLES / "cat.jpg").read_bytes())
    assert counts(run(bucket, tmp_path / "ray.db")) == (0, 1, n - 1, 0, 0)
    assert counts(run(bucket, tmp_path / "ray.db")) == (0, 0, n, 0, 0)
    assert len(rows(tmp_path / "ray.db")) == n


def test_a_shard(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("dog.jpg", "cat.jpg", "cow.jpg"):
            tar.add(SAMPLES / name, name)
            text = f"a {name}".encode()
            member = tarfile.TarInfo(name.replace(".jpg", ".txt"))
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    assert counts(run(tmp_path / "shard.tar", tmp_path / "ray.db", length=1)) == (3, 0, 0, 0, 0)
    found = {row.uri.rpartition("#")[2]: row.metadata for row in rows(tmp_path / "ray.db").values()}
    assert found == {name: {"caption": f"a {name}.jpg"} for name in ("dog", "cat", "cow")}


def test_failures_and_what_is_passed_over(tmp_path: Path) -> None:
    folder = copies(tmp_path / "photos", 5)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "drawing.svg").write_text("<svg/>")
    report = run(folder, tmp_path / "ray.db", length=2)
    assert counts(report) == (5, 0, 0, 0, 1)
    assert report.failures[0].uri == (folder / "broken.jpg").as_posix()
    assert report.passed_over == {".svg": 1}
    (folder / "list.jsonl").write_text('{"path": "00000.jpg"}\n{"path": "00001.jpg", "tenant": "a"}\n')
    keyed = CollectionOptions(partition_key="tenant")
    report = run(folder / "list.jsonl", tmp_path / "keyed.db", collection_options=keyed)
    assert counts(report) == (1, 0, 0, 0, 1)


def test_too_many_failures(tmp_path: Path) -> None:
    folder = copies(tmp_path / "photos", 3)
    for i in range(40):
        (folder / f"broken-{i}.jpg").write_bytes(b"no image")
    with pytest.raises(TooManyFailuresError) as caught:
        run(folder, tmp_path / "ray.db", length=4, max_failures=5)
    assert 5 < caught.value.report.failed <= 40
    assert counts(run(folder, tmp_path / "ray.db", max_failures=40))[1:] == (0, caught.value.report.added, 0, 40)


def test_an_error_of_a_worker_is_ours(tmp_path: Path) -> None:
    settings = Settings(uri=str(tmp_path / "ray.db"), models="onnx:cuda")
    with pytest.raises(BackendUnavailableError):
        ingest_with_ray(SAMPLES, settings=settings, workers=1)


def test_a_worker_is_killed(tmp_path: Path) -> None:
    folder, kill = copies(tmp_path / "photos", 200), KillOnce()
    assert counts(run(folder, tmp_path / "ray.db", on_progress=kill)) == (200, 0, 0, 0, 0)
    assert kill.done == 200
    assert {Path(row.uri).name for row in rows(tmp_path / "ray.db").values()} == {path.name for path in folder.iterdir()}
    assert counts(run(folder, tmp_path / "ray.db")) == (0, 0, 200, 0, 0)


@pytest.mark.server
def test_workers_write_into_a_server(tmp_path: Path, milvus_server: MilvusServer) -> None:
    folder, kill, uri = copies(tmp_path / "photos", 200), KillOnce(), milvus_server.uri
    report = run(folder, uri, on_progress=kill)
    # What a worker wrote before it died counts as unchanged when its chunk is repeated.
    assert (report.added + report.unchanged, report.updated, report.failed) == (200, 0, 0)
    with Store(uri) as store:
        assert store.open("images").count() == 200
    assert counts(run(folder, uri)) == (0, 0, 200, 0, 0)
    with CoopIngest(uri=uri) as ingest:
        assert counts(ingest.run(folder)) == (0, 0, 200, 0, 0)


def test_an_item_that_kills_its_worker_is_found(tmp_path: Path) -> None:
    folder = copies(tmp_path / "photos", 30)
    (folder / "00015.jpg").write_bytes((folder / "00015.jpg").read_bytes() + b"DEADLY")
    report = run(folder, tmp_path / "ray.db", state=str(tmp_path / "state"))
    assert counts(report) == (29, 0, 0, 0, 1)
    assert (Path(report.failures[0].uri).name, "died" in report.failures[0].reason) == ("00015.jpg", True)
    (letters,) = (tmp_path / "state").glob("*/failed/*.jsonl")
    assert "00015.jpg" in letters.read_text()


def test_a_state_spares_the_next_run_what_is_finished(tmp_path: Path) -> None:
    folder, state = copies(tmp_path / "photos", 60), str(tmp_path / "state")
    (folder / "broken.jpg").write_bytes(b"no image")
    assert counts(run(folder, tmp_path / "ray.db", state=state)) == (60, 0, 0, 0, 1)
    report = run(folder, tmp_path / "ray.db", state=state)
    assert (counts(report), report.skipped, report.skipped_failed) == ((0, 0, 0, 0, 0), 61, 1)
    report = run(folder, tmp_path / "ray.db", state=state, retry_failed=True)
    # Only the part with the failure is ingested again. Its other items, if it has any, depend on the path of the folder.
    assert (report.failed, report.skipped_failed, report.seen + report.skipped) == (1, 0, 61)
    assert (report.unchanged, report.skipped > 0) == (report.seen - 1, True)
    shutil.copy(folder / "00001.jpg", folder / "broken.jpg")
    report = run(folder, tmp_path / "ray.db", state=state)
    assert (report.added, report.failed, report.skipped_failed) == (1, 0, 0)
    assert list((tmp_path / "state").glob("*/failed/*.jsonl")) == []
    assert len(rows(tmp_path / "ray.db")) == 61
    report = run(folder, tmp_path / "ray.db", state=state, force=True)
    assert (report.updated, report.skipped) == (61, 0)
    # A collection that was made anew lacks what the state calls finished.
    report = run(folder, tmp_path / "new.db", state=state)
    assert (report.added, report.skipped) == (61, 0)


def test_shards_are_read_by_workers_and_once(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    for n in range(4):
        with tarfile.open(tmp_path / f"{n}.tar", "w") as tar:
            for name in ("dog.jpg", "cat.jpg"):
                tar.add(SAMPLES / name, f"{n}-{name}")
    source = tmp_path / "{0..3}.tar"
    assert counts(run(source, tmp_path / "ray.db", state=state)) == (8, 0, 0, 0, 0)
    report = run(source, tmp_path / "ray.db", state=state)
    assert (report.seen, report.skipped) == (0, 8)
