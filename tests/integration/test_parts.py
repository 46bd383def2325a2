"""The parts of sources: which items they hold, and when their keys change."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from milvus_coop import load_bundle
from milvus_coop.errors import StoreError
from milvus_coop.ingest.cluster.ledger import Ledger
from milvus_coop.ingest.cluster.parts import Finished, Part, Rest, cut, read_parts
from milvus_coop.ingest.items import Item
from milvus_coop.ingest.options import IngestOptions
from milvus_coop.ingest.sources import PassedOver, open_sources
from milvus_coop.store import Collection, Store
from milvus_coop.types import Failure, Kind
from tests.servers import s3

SAMPLES = Path(__file__).parents[2] / "examples" / "images"
NOTHING: dict[str, Finished] = {}


def parts(*sources: str | Path, length: int = 8, kind: Kind = "image", finished: dict[str, Finished] = NOTHING) -> list[Part]:
    opened = open_sources(sources, kind, IngestOptions().reading)
    *found, rest = read_parts(opened, length, finished)
    assert isinstance(rest, Rest)
    return [part for part in found if isinstance(part, Part)]


def rest(*sources: str | Path, finished: dict[str, Finished]) -> Rest:
    *_, last = read_parts(open_sources(sources, "image", IngestOptions().reading), 8, finished)
    assert isinstance(last, Rest)
    return last


def keys(found: list[Part]) -> list[str]:
    return [part.key for part in found]


def uris(found: list[Part]) -> list[str]:
    return [entry.uri for part in found for entry in part.entries(PassedOver())]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of 100 images."""
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(100):
        shutil.copy(SAMPLES / "dog.jpg", folder / f"{i:03}.jpg")
    return folder


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    """An empty collection."""
    with Store(tmp_path / "m.db") as store:
        yield store.create("images", load_bundle("coop-small").spec, "image")


def shard(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.add(SAMPLES / "cat.jpg", name)
    return path


def test_every_item_is_in_one_part(album: Path) -> None:
    found = parts(album)
    assert uris(found) == [path.as_posix() for path in sorted(album.iterdir())]
    assert all(1 <= len(part.given) <= 8 for part in found)
    assert [part.number for part in found] == list(range(len(found)))
    assert len(set(keys(found))) == len(found) < 60


def test_lists_end_where_an_id_says_so() -> None:
    items = [Item(f"{i}.jpg") for i in range(2000)]
    lists = list(cut(items, 64))
    assert [item for some in lists for item in some] == items
    assert all(16 <= len(some) <= 64 for some in lists[:-1])
    # One more item at the beginning changes some lists, and not all.
    kept = [some for some in cut([Item("new.jpg"), *items], 64) if some in lists]
    assert len(kept) > len(lists) / 2


def test_a_key_changes_with_a_file(album: Path) -> None:
    before = keys(parts(album))
    assert keys(parts(album)) == before
    shutil.copy(SAMPLES / "cat.jpg", album / "050.jpg")
    changed = set(before) ^ set(keys(parts(album)))
    assert len(changed) == 2


def test_finished_parts_are_left_out(album: Path) -> None:
    before = parts(album)
    finished = {part.key: Finished(len(part.given), failed=1) for part in before[:3]}
    n = sum(len(part.given) for part in before[:3])
    assert keys(parts(album, finished=finished)) == keys(before[3:])
    assert rest(album, finished=finished) == Rest({}, n, 3)


def test_a_shard_is_one_part(tmp_path: Path) -> None:
    for n in range(3):
        shard(tmp_path / f"{n}.tar", f"{n}-a.jpg", f"{n}-b.jpg")
    found = parts(tmp_path / "{0..2}.tar", tmp_path / "*.tar")  # the same shards twice
    assert [Path(part.name).name for part in found] == ["0.tar", "1.tar", "2.tar"]
    assert [uri.rpartition("/")[2] for uri in uris(found)] == [f"{n}.tar#{n}-{c}" for n in range(3) for c in "ab"]
    shard(tmp_path / "1.tar", "other.jpg", "two.jpg", "three.jpg")
    again = keys(parts(tmp_path / "*.tar"))
    assert [old == new for old, new in zip(keys(found), again, strict=True)] == [True, False, True]


def test_a_shard_in_an_object_store(tmp_path: Path, s3_server: str) -> None:
    bucket = f"s3://{s3.bucket('for-parts')}"
    content = shard(tmp_path / "a.tar", "a.jpg").read_bytes()
    s3.put(f"{bucket}/a.tar", content)
    named, listed = parts(f"{bucket}/a.tar"), parts(f"{bucket}/*.tar")
    assert keys(named) == keys(listed) != [""]
    s3.put(f"{bucket}/a.tar", content + b"\0" * 10240)
    assert keys(parts(f"{bucket}/*.tar")) != keys(listed)


def test_a_table_of_images_is_one_part_and_a_manifest_is_not(album: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [(SAMPLES / "dog.jpg").read_bytes()] * 20}), tmp_path / "images.parquet")
    pq.write_table(pa.table({"path": [f"album/{i:03}.jpg" for i in range(20)]}), tmp_path / "manifest.parquet")
    assert len(parts(tmp_path / "images.parquet")) == 1
    assert 3 <= len(parts(tmp_path / "manifest.parquet")) <= 20


def test_a_line_of_a_list_that_changes(tmp_path: Path) -> None:
    lines = [f'{{"text": "text {i}", "id": "{i}"}}\n' for i in range(100)]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    before = keys(parts(tmp_path / "texts.jsonl", kind="text"))
    lines[40] = '{"text": "another", "id": "40"}\n'
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    after = keys(parts(tmp_path / "texts.jsonl", kind="text"))
    assert len(before) == len(after)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_a_part_that_cannot_be_read_has_no_key(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"path": "a.jpg"}\nno json\n')
    (broken,) = parts(tmp_path / "list.jsonl")
    assert broken.key == ""


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_the_ledger(place: str, tmp_path: Path, collection: Collection, s3_server: str) -> None:
    state = str(tmp_path / "state") if place == "folder" else f"s3://{s3.bucket('for-ledger')}/state"
    job = {"bundle": "abc"}
    good, bad, unsure = (Part(i, f"{i:032x}", f"part {i}") for i in range(3))
    ledger = Ledger(state, collection, job)
    assert ledger.load() == {}
    ledger.add(good, 10, [], "")
    ledger.add(bad, 20, [Failure("a.jpg", "is damaged")], "")
    ledger.add(unsure, 30, [Failure("b.jpg", "the connection was lost", may_pass=True)], "")
    ledger.save()
    again = Ledger(state, collection, job)
    assert again.load() == {good.key: Finished(10), bad.key: Finished(20, 1)}
    assert Ledger(state, collection, job).load(retry_failed=True) == {good.key: Finished(10)}
    assert Ledger(state, collection, {"bundle": "other"}).load() == {}
    again.add(bad, 20, [], "")
    again.save()
    last = Ledger(state, collection, job)
    assert last.load() == {good.key: Finished(10), bad.key: Finished(20)}
    last.add(good, 10, [], "0" * 32)  # an item that the collection does not have
    last.save()
    assert Ledger(state, collection, job).load() == {}
    assert Ledger(state, collection, job).load() == {}


def test_dead_letters(tmp_path: Path, collection: Collection) -> None:
    ledger = Ledger(str(tmp_path), collection, {})
    part = Part(0, "0" * 32, "s3://bucket/a.tar")
    ledger.add(part, 3, [Failure("a.tar#1", "is damaged"), Failure("a.tar#2", "has no image")], "")
    (letters,) = tmp_path.glob("*/failed/*.jsonl")
    assert letters.read_text() == (
        '{"uri": "a.tar#1", "reason": "is damaged", "part": "s3://bucket/a.tar"}\n'
        '{"uri": "a.tar#2", "reason": "has no image", "part": "s3://bucket/a.tar"}\n'
    )
    ledger.add(part, 3, [], "")
    assert not letters.exists()


def test_a_damaged_ledger_is_an_error(tmp_path: Path, collection: Collection) -> None:
    ledger = Ledger(str(tmp_path), collection, {})
    ledger.add(Part(0, "0" * 32, "a"), 3, [], "")
    ledger.save()
    (saved,) = tmp_path.glob("*/finished/*.jsonl")
    saved.write_text('{"part": 3}\n')
    with pytest.raises(StoreError, match="items"):
        Ledger(str(tmp_path), collection, {}).load()
