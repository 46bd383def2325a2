"""Object stores, shards and tables: the same images from anywhere are the same rows, and a second run knows what changed."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from milvus_coop import CoopIngest, CoopSearch, FakeBackend
from milvus_coop.elsewhere.objects import remote_file
from milvus_coop.errors import SourceError
from milvus_coop.ingest import ingest
from milvus_coop.ingest.sources import Reading
from milvus_coop.ingest.sources.remote import walk_remote
from milvus_coop.types import IngestReport, Kind, Row
from tests.servers import s3

from .ingest_kit import SPEC, MemorySink, encoder, picture

SAMPLES = Path(__file__).parents[2] / "examples" / "images"
_numbers = itertools.count()


class Run:
    """Ingests into a collection in memory."""

    def __init__(self, folder: Path) -> None:
        self.sink = MemorySink()
        self.backend = FakeBackend(SPEC)
        self.encoder = encoder(self.backend, folder)

    def __call__(self, *sources: str | Path, kind: Kind = "image", prune: bool = False, **reading: Any) -> IngestReport:
        return ingest(sources, sink=self.sink, encoder=self.encoder, kind=kind, prune=prune, reading=Reading(**reading))

    def rows(self) -> dict[str, Row]:
        return {row.uri: row for row in self.sink.held.values()}

    def names(self) -> list[str]:
        return sorted(uri.rpartition("/")[2] for uri in self.sink.uris())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty place in an object store."""
    name = f"bucket-{next(_numbers)}"
    if request.param == "s3":
        request.getfixturevalue("s3_server")
        yield f"s3://{s3.bucket(name)}"
    else:
        yield f"memory://{name}"
        fsspec.filesystem("memory").store.clear()


def put(address: str, content: bytes) -> None:
    system, path = fsspec.core.url_to_fs(address)
    system.pipe_file(path, content)


def remove(address: str) -> None:
    system, path = fsspec.core.url_to_fs(address)
    system.rm_file(path)


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.removed, report.failed


def image(seed: int, folder: Path) -> bytes:
    return picture(folder / f"{seed}.png", seed=seed).read_bytes()


def tar(*files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def parquet(columns: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer)
    return buffer.getvalue()


# Prefixes


def test_a_prefix_is_read_like_a_folder(run: Run, store: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("b.png", "sub/x/a.PNG", "notes.txt", ".hidden.png", ".trash/c.png", "old.heif.svg")):
        put(f"{store}/photos/{name}", image(seed, tmp_path))
    put(f"{store}/photos-2/d.png", image(9, tmp_path))
    report = run(f"{store}/photos/")
    assert counts(report) == (2, 0, 0, 0, 0)
    assert sorted(run.sink.uris()) == [f"{store}/photos/b.png", f"{store}/photos/sub/x/a.PNG"]
    assert report.passed_over == {".svg": 1}


def test_globs_and_single_objects(run: Run, store: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("a/1.png", "a/2.jpg.png", "b/3.png", "b/c/4.png", "[5].png")):
        put(f"{store}/{name}", image(seed, tmp_path))
    run(f"{store}/*/?.png")
    assert run.names() == ["1.png", "3.png"]
    run(f"{store}/b/**/*.png", f"{store}/[5].png")
    assert run.names() == ["1.png", "3.png", "4.png", "[5].png"]


def test_what_changed_is_known_without_reading(run: Run, store: str, tmp_path: Path) -> None:
    for seed in range(3):
        put(f"{store}/p/{seed}.png", image(seed, tmp_path))
    assert counts(run(f"{store}/p")) == (3, 0, 0, 0, 0)
    assert all(0 < row.mtime_ns < 2**63 for row in run.rows().values())
    run.backend.rows.clear()
    assert counts(run(f"{store}/p")) == (0, 0, 3, 0, 0)
    put(f"{store}/p/1.png", image(77, tmp_path))
    assert counts(run(f"{store}/p")) == (0, 1, 2, 0, 0)
    assert run.backend.rows == {"image_encoder": 1}


def test_prune_removes_what_is_gone_and_nothing_else(run: Run, store: str, tmp_path: Path) -> None:
    for name in ("p/1.png", "p/2.png", "p/q/3.png", "other/4.png"):
        put(f"{store}/{name}", image(int(name[-5]), tmp_path))
    run(f"{store}/p", f"{store}/other")
    remove(f"{store}/p/2.png")
    remove(f"{store}/other/4.png")
    assert counts(run(f"{store}/p/*.png", prune=True)) == (0, 0, 1, 1, 0)  # the glob does not name 3.png, which is there
    assert run.names() == ["1.png", "3.png", "4.png"]
    remove(f"{store}/p/1.png")
    remove(f"{store}/p/q/3.png")
    with pytest.raises(SourceError, match="has no images"):
        run(f"{store}/p", prune=True)
    assert run.names() == ["1.png", "3.png", "4.png"]


def test_many_pages(s3_server: str, tmp_path: Path) -> None:
    place, content = f"s3://{s3.bucket('pages')}", image(1, tmp_path)
    system, _ = fsspec.core.url_to_fs(place)
    system.pipe({f"pages/p/{n:04}.png": content for n in range(1050)})
    for parts in (("**",), ("*.png",)):
        listed = [found.name for found in walk_remote(remote_file(f"{place}/p"), parts, frozenset({".png"}))]  # type: ignore[union-attr]
        assert listed == [f"{place}/p/{n:04}.png" for n in range(1050)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://nowhere-at-all/p/", "has no images: the prefix cannot be listed"),
        ("s3://nowhere-at-all/p.png", "there is no s3://nowhere-at-all/p.png"),
        ("s3:///p", "names no bucket"),
        (
            "s3://key:secret@bucket/p",
            "^an address at s3:// holds a password; expected: credentials where the driver looks",
        ),
        ("gs://bucket/p", "gs:// needs gcsfs, which is not installed; try: pip install gcsfs"),
        ("ftp://host/p", "there is no "),
    ],
)
def test_addresses_that_cannot_be_used(run: Run, s3_server: str, source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        run(source)


def test_lists_in_a_store_and_lists_of_addresses(run: Run, store: str, tmp_path: Path) -> None:
    for seed in range(3):
        put(f"{store}/p/{seed}.png", image(seed, tmp_path))
    lines = [
        {"path": "../p/0.png", "n": 0},
        {"uri": f"{store}/p/1.png", "n": 1},
        {"path": "/etc/x.png"},
        {"path": "../../../x.png"},
    ]
    put(f"{store}/lists/a.jsonl", "\n".join(map(json.dumps, lines)).encode())
    report = run(f"{store}/lists/a.jsonl")
    assert {uri: row.metadata for uri, row in run.rows().items()} == {f"{store}/p/{n}.png": {"n": n} for n in range(2)}
    assert [f.reason for f in report.failures] == [
        "line 3: a list in an object store cannot name a file of this machine",
        "line 4: the path leads out of the object store",
    ]
    (tmp_path / "local.csv").write_text(f"uri,n\n{store}/p/2.png,2\n{store}/p/gone.png,3\n")
    report = run(tmp_path / "local.csv")
    assert counts(report) == (1, 0, 0, 0, 1)
    assert report.failures[0].reason.startswith("cannot be read: ")


# Shards


def test_files_of_one_key_are_one_item(run: Run, store: str, tmp_path: Path) -> None:
    shard = tar(
        ("./00/a.png", image(1, tmp_path)),
        ("./00/a.txt", b"a dog \n"),
        ("./00/a.json", json.dumps({"width": 32, "size": 9, "none": None, "nan": float("nan")}).encode()),
        ("b.left.png", image(2, tmp_path)),
        ("b.right.png", image(3, tmp_path)),
        ("._c.png", b"junk"),
        ("d.cls", b"7"),
        ("e.txt", b"only a text"),
        ("f.png", image(4, tmp_path)),
        ("f.json", b"[1]"),
        ("g.svg", b"<svg/>"),
    )
    put(f"{store}/s.tar", shard)
    report = run(f"{store}/s.tar")
    rows = {uri.removeprefix(f"{store}/s.tar#"): dict(row.metadata) for uri, row in run.rows().items()}
    assert rows == {"00/a": {"width": 32, "caption": "a dog"}, "b.left.png": {}, "b.right.png": {}}
    assert [(f.uri, f.reason) for f in report.failures] == [(f"{store}/s.tar#f", "f.json cannot be read: not a JSON object")]
    assert report.passed_over == {".svg": 1, "key 'size' of .json files, a name that the collection uses": 1}

    texts = Run(tmp_path)
    assert counts(texts(f"{store}/s.tar", kind="text")) == (2, 0, 0, 0, 1)
    assert {row.content.text for row in texts.sink.held.values()} == {"a dog", "only a text"}  # type: ignore[union-attr]


def test_ranges_and_globs_of_shards(run: Run, store: str, tmp_path: Path) -> None:
    for n in (0, 1, 3):
        put(f"{store}/{n:03}.tar", tar((f"{n}.png", image(n, tmp_path))))
    report = run(f"{store}/{{000..003}}.tar")
    assert run.names() == ["000.tar#0", "001.tar#1", "003.tar#3"]
    assert [f.uri for f in report.failures] == [f"{store}/002.tar"]
    assert counts(run(f"{store}/*.tar")) == (0, 0, 3, 0, 0)
    put(f"{store}/001.tar", tar(("new.png", image(9, tmp_path))))
    assert counts(run(f"{store}/*.tar", prune=True)) == (1, 0, 2, 1, 0)
    assert run.names() == ["000.tar#0", "001.tar#new", "003.tar#3"]


@pytest.mark.parametrize("kept", [512 * 3, 512 * 3 + 100, 512 * 6, -10240 + 512 * 2])
def test_a_damaged_end_is_named(run: Run, tmp_path: Path, kept: int) -> None:
    """Python's tarfile ends silently when a header is cut or missing."""
    whole = tar(*((f"{n}.png", image(n, tmp_path)) for n in range(3)))
    path = tmp_path / "s.tar"
    path.write_bytes(whole)
    assert counts(run(path)) == (3, 0, 0, 0, 0)
    path.write_bytes(whole[:kept] if kept > 0 else whole.rstrip(b"\0"))
    report = run(path, prune=True)
    assert report.removed == 0
    assert len(report.failures) == 1
    assert report.failures[0].uri == str(path)
    assert report.failures[0].reason.startswith("the shard is damaged after ")
    assert len(run.sink.held) == 3


# Tables


def test_tables_with_images(run: Run, store: str, tmp_path: Path) -> None:
    images = [image(n, tmp_path) for n in range(2)]
    put(f"{store}/t.parquet", parquet({"photo": images, "n": [1, 2], "text": ["a", "b"]}))
    with pytest.raises(SourceError, match="no column names or holds images; expected: uri, path, or the column of --image-column"):
        run(f"{store}/t.parquet")
    with pytest.raises(SourceError, match="there is no column 'foto'; expected: one of photo, n, text"):
        run(f"{store}/t.parquet", image_column="foto")
    with pytest.raises(SourceError, match="the column 'n' is of type int64; expected: bytes of image files"):
        run(f"{store}/t.parquet", image_column="n")
    report = run(f"{store}/t.parquet", image_column="photo")
    assert {uri: row.metadata for uri, row in run.rows().items()} == {f"{store}/t.parquet#{n}": {"n": n} for n in (1, 2)}
    assert report.passed_over == {"column 'text', which has a name that the collection uses,": 1}
    put(f"{store}/t.parquet", parquet({"photo": images[:1], "n": [1]}))
    assert counts(run(f"{store}/*.parquet", image_column="photo", prune=True)) == (0, 0, 1, 1, 0)


def test_arrow_types(run: Run, tmp_path: Path) -> None:
    import datetime
    import decimal

    columns = {
        "image": pa.array([{"bytes": image(1, tmp_path), "path": "x.png"}]),
        "uri": pa.array(["mine"]),
        "time": pa.array([datetime.datetime(2024, 5, 6, 7, 8, 9)], pa.timestamp("us", "UTC")),
        "nanos": pa.array([1715000000000000001], pa.timestamp("ns")),
        "day": pa.array([datetime.date(2024, 5, 6)]),
        "took": pa.array([datetime.timedelta(seconds=1.5)]),
        "price": pa.array([decimal.Decimal("1.25")], pa.decimal128(9, 2)),
        "exact": pa.array([decimal.Decimal("0.123456789012345678")], pa.decimal128(30, 18)),
        "count": pa.array([decimal.Decimal("7")], pa.decimal128(9, 0)),
        "tags": pa.array([["a", None]]),
        "box": pa.array([{"x": 1.5, "y": [float("nan")]}]),
        "kind": pa.array(["dog"]).dictionary_encode(),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "missing": pa.array([float("nan")]),
        "half": pa.array(np.array([0.5], np.float16)),
        "nothing": pa.array([None]),
        "blob": pa.array([b"x"]),
        "ints": pa.array([[(1, 1)]], pa.map_(pa.int64(), pa.int64())),
    }
    (tmp_path / "t.parquet").write_bytes(parquet(columns))
    report = run(tmp_path / "t.parquet")
    assert run.rows()["mine"].metadata == {
        "time": "2024-05-06T07:08:09+00:00",
        "nanos": "2024-05-06T12:53:20.000000001",
        "day": "2024-05-06",
        "took": 1.5,
        "price": 1.25,
        "exact": "0.123456789012345678",
        "count": 7,
        "tags": ["a", None],
        "box": {"x": 1.5, "y": [None]},
        "kind": "dog",
        "map": {"k": 1},
        "half": 0.5,
    }
    assert report.passed_over == {
        "column 'blob', which is of type binary,": 1,
        "column 'ints', which is of type map<int64, int64 ('ints')>,": 1,
    }


def test_manifests_and_texts_in_tables(run: Run, store: str, tmp_path: Path) -> None:
    for seed in range(2):
        put(f"{store}/p/{seed}.png", image(seed, tmp_path))
    put(f"{store}/m.parquet", parquet({"path": ["p/0.png", "p/1.png", None], "n": [0, 1, 2]}))
    report = run(f"{store}/m.parquet")
    assert {uri: row.metadata for uri, row in run.rows().items()} == {f"{store}/p/{n}.png": {"n": n} for n in range(2)}
    assert [(f.uri, f.reason) for f in report.failures] == [
        (f"{store}/m.parquet:3", "row 3: no 'uri' or 'path' with the name of a file")
    ]
    texts = Run(tmp_path)
    put(f"{store}/t.parquet", parquet({"caption": ["a dog", "a cat"], "key": ["k1", "k2"]}))
    assert counts(texts(f"{store}/t.parquet", kind="text")) == (2, 0, 0, 0, 0)
    assert sorted(texts.sink.uris()) == [f"{store}/t.parquet#k1", f"{store}/t.parquet#k2"]


def test_what_img2dataset_writes(run: Run, tmp_path: Path) -> None:
    row = {
        "url": "https://a/b.jpg",
        "caption": "a dog",
        "key": "000000000",
        "status": "success",
        "error_message": None,
        "width": 32,
    }
    failed: dict[str, Any] = {**row, "key": "000000001", "status": "failed_to_download", "width": None}
    failed["error_message"] = "HTTP Error 404"
    rows: list[dict[str, Any]] = [{**row, "jpg": image(1, tmp_path)}, {**failed, "jpg": None}]
    (tmp_path / "00000.parquet").write_bytes(parquet({name: [r[name] for r in rows] for name in rows[0]}))
    report = run(tmp_path / "*.parquet")
    kept = {name: value for name, value in row.items() if value is not None}
    assert [(uri.rpartition("/")[2], r.metadata) for uri, r in run.rows().items()] == [("00000.parquet#000000000", kept)]
    assert report.passed_over == {"rows without an image": 1}
    assert not report.failures
    sample = (("000000000.jpg", image(1, tmp_path)), ("000000000.txt", b"a dog"), ("000000000.json", json.dumps(row).encode()))
    (tmp_path / "00000.tar").write_bytes(tar(*sample))
    run.sink.held.clear()
    run(tmp_path / "{00000..00000}.tar")
    assert [(uri.rpartition("/")[2], r.metadata) for uri, r in run.rows().items()] == [("00000.tar#000000000", kept)]


def test_a_table_that_is_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 junk PAR1")
    with pytest.raises(SourceError, match="the table cannot be read: not a Parquet file that can be read"):
        run(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="an image column 'jpg' is named, and no source is a table"):
        run(SAMPLES, image_column="jpg")


# All of them


def test_the_sample_images_from_anywhere_are_the_same(s3_server: str, tmp_path: Path) -> None:
    """A folder, a prefix, shards and a table in S3, through the shipped bundle and Milvus Lite."""
    place = f"s3://{s3.bucket('samples')}"
    paths = sorted(SAMPLES.glob("*.jpg"))[:24]
    for path in paths:
        put(f"{place}/photos/{path.name}", path.read_bytes())
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    for number, some in enumerate((paths[:10], paths[10:])):
        put(f"{place}/shards/{number:06}.tar", tar(*((path.name, path.read_bytes()) for path in some)))
    put(f"{place}/t.parquet", parquet({"image": [p.read_bytes() for p in paths], "key": [p.stem for p in paths]}))

    found: dict[str, list[tuple[str, float]]] = {}
    for source in (str(tmp_path / "photos"), f"{place}/photos/", f"{place}/shards/{{000000..000001}}.tar", f"{place}/t.parquet"):
        uri = tmp_path / f"{len(found)}.db"
        with CoopIngest("images", uri=uri) as opened:
            assert counts(opened.run([source])) == (24, 0, 0, 0, 0)
            assert counts(opened.run([source], prune=True)) == (0, 0, 24, 0, 0)
        with CoopSearch("images", uri=uri) as search:
            hits = search.query("a dog on grass", k=24, limit=10)
            found[source] = [(_stem(hit.uri), round(hit.score, 4)) for hit in hits]
    first, *others = found.values()
    assert len(first) == 10
    assert others == [first] * 3


def _stem(uri: str) -> str:
    return uri.rpartition("#")[2].rpartition("/")[2].removesuffix(".jpg")
