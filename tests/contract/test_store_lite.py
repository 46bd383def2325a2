"""What is particular to Milvus Lite: a folder, a lock, one process, one writer."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from milvus_coop.errors import InvalidArgumentError, StoreError, StoreLockedError, StoreUnavailableError
from milvus_coop.store import Store
from tests.contract.store_samples import SPEC, make_row, make_rows, unit_vectors

ROOT = Path(__file__).parents[2]


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in another process, from the repository's root."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_search_finds_all_rows_that_a_filter_leaves(tmp_path: Path) -> None:
    """Its index passes the rows that a filter excludes, and stops after a number of rows. It has one once it was opened again."""
    with Store(tmp_path / "lite.db") as store:
        rows = [make_row(i, vector, metadata={"part": i % 100}) for i, vector in enumerate(unit_vectors(2000, 1))]
        store.create("images", SPEC).upsert(rows)
    with Store(tmp_path / "lite.db") as store:
        collection, queries = store.open("images"), unit_vectors(5, 2)
        for found in (*collection.search(queries, 50, filter="part == 7"), *collection.within("part == 7").search(queries, 50)):
            assert len(found) == 20


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_an_index_file_that_was_not_written_to_the_end_is_built_again(tmp_path: Path, kept: float) -> None:
    """A process that is killed while Milvus Lite builds an index leaves such a file."""
    path, rows = tmp_path / "lite.db", make_rows(2000)
    with Store(path) as store:
        store.create("images", SPEC).upsert(rows)
    with Store(path) as store:
        expected = store.open("images").search(unit_vectors(3, 2), 50)
    files = list(path.rglob("*.idx"))
    for file in files:
        os.truncate(file, int(kept * file.stat().st_size))
    assert files
    with Store(path) as store:
        collection = store.open("images")
        assert collection.count() == 2000
        assert collection.search(unit_vectors(3, 2), 50) == expected


@pytest.mark.parametrize("name", ["images.db", "folder", "with space.db", "ünïcode"])
def test_rows_and_bundle_survive_closing(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Store(path) as store:
        store.create("images", SPEC).upsert(make_rows(30))
    with Store(str(path)) as store:
        assert [(i.name, i.kind, i.bundle) for i in store.list()] == [("images", "image", "tiny 1")]
        images = store.open("images", SPEC)
        assert images.count() == 30
        assert len(images.search(unit_vectors(1), 5)[0]) == 5


def test_two_stores_share_a_path(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    with Store(path) as one:
        with Store(tmp_path / "." / "shared.db") as two:
            two.create("images", SPEC).upsert(make_rows(3))
        assert one.open("images").count() == 3
        with ThreadPoolExecutor(4) as pool:
            for store in pool.map(Store, [path] * 8):
                assert store.open("images").count() == 3
                store.close()
        assert one.open("images").count() == 3


def test_two_stores_write_at_once(tmp_path: Path) -> None:
    rows = make_rows(400)
    with Store(tmp_path / "w.db") as one, Store(tmp_path / "w.db") as two:
        one.create("images", SPEC)
        collections = [one.open("images"), two.open("images")]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: collections[i % 2].upsert(rows[i * 20 : (i + 1) * 20]), range(20)))
        assert collections[0].count() == 400


def test_new_rows_are_indexed_before_they_slow_searches_down(tmp_path: Path) -> None:
    with Store(tmp_path / "f.db") as store:
        images = store.create("images", SPEC)
        images.upsert(make_rows(100))
        images.search(unit_vectors(1), 3)
        assert not list(tmp_path.rglob("*.parquet"))
        images.upsert(make_rows(600))
        assert len(images.search(unit_vectors(1), 600)[0]) == 600
        assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_a_closed_store_says_so_and_may_be_closed_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db")
    images = store.create("images", SPEC)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        images.count()


def test_another_process_holds_the_lock_until_it_closes(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    other = run_python(
        """
        import sys
        from milvus_coop.store import Store
        store = Store(sys.argv[1])
        print("open", flush=True)
        sys.stdin.readline()
        store.close()
        print("closed", flush=True)
        sys.stdin.readline()
        """,
        path,
    )
    assert other.stdout is not None
    assert other.stdin is not None
    with other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError, match=r"locked\.db"):
            Store(path)
        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == "closed\n"
        with Store(path) as store:  # while the other process still lives
            assert store.list() == []
        print(file=other.stdin, flush=True)
    assert other.returncode == 0


HOLDER = """
    import sys
    from milvus_coop.store import Store
    with Store(sys.argv[1]):
        print("open", flush=True)
        sys.stdin.readline()
    """
"""A process that holds the folder until it reads a line."""


def test_waiting_for_a_folder_that_another_process_has_open(tmp_path: Path) -> None:
    path = tmp_path / "awaited.db"
    with run_python(HOLDER, path) as other, ThreadPoolExecutor(2) as pool:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError, match="--wait"):
            Store(path, wait_s=0.5)
        waiting = pool.submit(Store, path, wait_s=60.0)
        with Store(tmp_path / "another.db") as free:  # who waits keeps nobody else from opening
            assert free.list() == []
        assert not waiting.done()
        print(file=other.stdin, flush=True)
        with waiting.result(timeout=60) as store:
            assert store.list() == []
    assert other.returncode == 0


def test_acknowledged_rows_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    other = run_python(
        """
        import sys
        from milvus_coop.store import Store
        from tests.contract.store_samples import SPEC, make_rows
        images = Store(sys.argv[1]).create("images", SPEC)
        rows = make_rows(500)
        for start in range(0, 500, 50):
            images.upsert(rows[start:start + 50])
            print(start + 50, flush=True)
        """,
        path,
    )
    assert other.stdout is not None
    with other:
        acknowledged = [int(other.stdout.readline()) for _ in range(5)][-1]
        other.kill()
    with Store(path) as store:
        known = store.open("images", SPEC).stamps([r.id for r in make_rows(acknowledged)])
        assert len(known) == acknowledged == 250


KILLED_AT_THE_END_OF_A_FLUSH = """
    import os, signal, sys
    from milvus_lite.storage.manifest import Manifest
    from milvus_coop.store import Store
    from tests.contract.store_samples import SPEC, make_rows

    save, saves = Manifest.save, 0

    def save_and_die(manifest):
        global saves
        save(manifest)
        saves += 1
        if saves == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    Manifest.save = save_and_die
    rows = make_rows(200)
    with Store(sys.argv[1]) as store:
        collection = store.create("images", SPEC)
        for start in range(0, 200, 20):
            collection.upsert(rows[start : start + 20])
            collection.flush()
"""


@pytest.mark.parametrize("saves", [4, 5])
def test_a_process_that_was_killed_at_the_end_of_a_flush_leaves_no_row_twice(tmp_path: Path, saves: int) -> None:
    """Milvus Lite saves its manifest and then removes the log. If the fourth log is left, it would have these rows twice."""
    path = tmp_path / "lite.db"
    command = [sys.executable, "-c", textwrap.dedent(KILLED_AT_THE_END_OF_A_FLUSH), str(path), str(saves)]
    assert subprocess.run(command, timeout=60).returncode == -9
    assert list(path.rglob("wal_*"))
    with Store(path) as store:
        collection = store.open("images")
        found = [candidate.id for candidate in collection.search(unit_vectors(1), 200)[0]]
        assert sorted(found) == sorted(row.id for row in make_rows(20 * (saves - 1)))
        assert collection.count() == len(found)


def test_an_interrupted_create_is_completed(tmp_path: Path) -> None:
    from milvus_coop.store.schema import HEADER, Header, collection_schema

    header = Header("image", SPEC.label, SPEC.fingerprint)
    with Store(tmp_path / "half.db") as store:
        schema = collection_schema(SPEC, "image", header)
        store._connection.call("create_collection", collection="images", schema=schema, properties={HEADER: header.to_json()})
        images = store.open_or_create("images", SPEC)
        images.upsert(make_rows(3))
        assert images.info().index == "HNSW COSINE"


def test_a_reader_makes_no_database(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with pytest.raises(StoreUnavailableError, match="no Milvus Lite database"):
        Store(path, must_exist=True)
    assert not path.exists()
    Store(path).close()
    with Store(path, must_exist=True) as store:
        assert store.list() == []


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="does not exist"):
        Store(tmp_path / "missing" / "a.db")
    old = tmp_path / "old.db"
    old.write_bytes(b"SQLite format 3\0")
    with pytest.raises(StoreError, match=r"Milvus Lite 2\.x.*cannot read files of version 2"):
        Store(old)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(StoreError, match="other files"):
        Store(tmp_path / "photos")
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == ["cat.png"]


def test_errors_are_raised_and_not_also_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path / "quiet.db") as store:
        images = store.create("images", SPEC)
        with pytest.raises(StoreError):
            images.search(unit_vectors(1), 1, filter="size >>")
        with pytest.raises(StoreError):
            store.open("missing")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().level == logging.WARNING
