"""Rows in Parquet files: written from a collection, loaded into another one, and read by Milvus' own bulk import."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from milvus_coop.errors import (
    BundleMismatchError,
    CollectionExistsError,
    InvalidArgumentError,
    SourceError,
    StoreError,
)
from milvus_coop.store import Collection, CollectionOptions, Store, export_rows, load_rows
from milvus_coop.store.layout import bundle_layout
from milvus_coop.store.parquet import arrow_schema
from milvus_coop.store.row_folder import MANIFEST, RowFolder
from milvus_coop.store.schema import DEFAULTS, Header, collection_schema
from milvus_coop.store.token_store import token_key
from milvus_coop.types import IngestReport, Kind, Row, StoredText, TokenFile
from tests.contract.store_samples import DIM, OTHER_SPEC, SPEC, make_row, make_rows, unit_vectors
from tests.servers.milvus import MilvusServer

STORED = replace(SPEC, name="stored", tokens=replace(SPEC.tokens, keep="store"))
PART = 10_000
"""Size of a part in these tests: some 60 rows."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(tmp_path_factory.mktemp("rows") / "here.db") as store:
        yield store


@pytest.fixture
def images(here: Store) -> Iterator[Collection]:
    collection = here.open_or_create("images", SPEC)
    collection.upsert([make_row(i, v, metadata={"n": i, "deep": {"é": [1, None]}}) for i, v in enumerate(unit_vectors(200))])
    yield collection
    here.drop("images")


def rows_of(collection: Collection) -> dict[str, Row]:
    return {row.id: row for page in collection.all_rows() for row in page}


def assert_same_rows(left: Collection, right: Collection) -> None:
    ours, theirs = rows_of(left), rows_of(right)
    assert list(ours) == list(theirs)
    for id, row in ours.items():
        np.testing.assert_array_equal(row.embedding, theirs[id].embedding)
        assert replace(row, embedding=theirs[id].embedding) == theirs[id]


def counts(report: IngestReport) -> tuple[int, ...]:
    return report.added, report.updated, report.unchanged, report.removed, report.failed


def test_there_and_back(here: Store, store: Store, images: Collection, tmp_path: Path) -> None:
    """Row for row the same, and the same hits, on Milvus Lite and on a server."""
    out = str(tmp_path / "out")
    assert counts(export_rows(here, "images", out, part_bytes=PART)) == (200, 0, 0, 0, 0)
    assert len(list((tmp_path / "out").glob("*.parquet"))) > 2
    assert counts(load_rows(store, out, "rows_back", SPEC)) == (200, 0, 0, 0, 0)
    there = store.open("rows_back", SPEC)
    assert_same_rows(images, there)
    queries = unit_vectors(5, seed=1)
    for ours, theirs in zip(images.search(queries, 10), there.search(queries, 10), strict=True):
        assert [c.id for c in ours] == [c.id for c in theirs]
        assert [c.content for c in ours] == [c.content for c in theirs]
    assert counts(load_rows(store, out, "rows_back", SPEC)) == (0, 0, 200, 0, 0)
    there.delete(list(rows_of(there))[:7])
    there.upsert([replace(row, digest="other") for row in make_rows(200)[:1]])
    assert sum(counts(load_rows(store, out, "rows_back", SPEC))[:2]) >= 7
    assert_same_rows(images, there)


def test_an_export_is_brought_up_to_date(here: Store, images: Collection, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export_rows(here, "images", out, part_bytes=PART)
    rows = make_rows(200)
    images.delete([row.id for row in rows[:50]])
    images.upsert([replace(row, digest="new") for row in rows[60:63]])
    images.upsert([make_row(i, v) for i, v in enumerate(unit_vectors(205)) if i >= 200])
    assert counts(export_rows(here, "images", out, part_bytes=PART)) == (5, 3, 147, 50, 0)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert sum(part["rows"] for part in manifest["parts"]) == 155
    files = {path.name for path in (tmp_path / "out").glob("*.parquet")}
    assert files == {part["name"] for part in manifest["parts"]}
    for part in manifest["parts"]:
        content = (tmp_path / "out" / part["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part["n_bytes"], part["sha256"])
        assert pq.read_metadata(tmp_path / "out" / part["name"]).num_rows == part["rows"]
    load_rows(here, out, "updated", SPEC)
    assert_same_rows(images, here.open("updated", SPEC))
    here.drop("updated")


def test_a_killed_export_goes_on(here: Store, images: Collection, tmp_path: Path) -> None:
    """The files that were complete are kept; one that the manifest does not name counts for nothing."""
    out = tmp_path / "out"

    class Killed(Exception):  # noqa: N818
        pass

    folder = RowFolder.to_write(str(out), images.layout, SPEC.label, SPEC.fingerprint, PART)
    with pytest.raises(Killed):  # noqa: PT012
        for row in rows_of(images).values():
            folder.upsert([row])
            if len(folder.manifest.parts) == 2:
                raise Killed
    (out / "00000009-12345678.parquet").write_bytes(b"half a fi")
    done = json.loads((out / MANIFEST).read_text())["parts"]
    report = export_rows(here, "images", str(out), part_bytes=PART)
    assert report.unchanged == sum(part["rows"] for part in done) > 0
    assert report.added == 200 - report.unchanged
    load_rows(here, str(out), "again", SPEC)
    assert_same_rows(images, here.open("again", SPEC))
    here.drop("again")


def test_other_rows_are_refused(here: Store, images: Collection, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export_rows(here, "images", out)
    with pytest.raises(BundleMismatchError, match="made with bundle tiny 1"):
        load_rows(here, out, "other", OTHER_SPEC)
    assert "other" not in {info.name for info in here.list()}
    for kind, options, message in (
        ("text", DEFAULTS, "holds images with the partition key ''"),
        ("image", CollectionOptions(partition_key="tenant"), "holds images"),
    ):
        layout = bundle_layout(SPEC, kind, options)  # type: ignore[arg-type]
        with pytest.raises(CollectionExistsError, match=message):
            RowFolder.to_write(out, layout, SPEC.label, SPEC.fingerprint)
    here.create("captions", SPEC, "text")
    with pytest.raises(CollectionExistsError, match="holds texts"):
        load_rows(here, out, "captions", SPEC)
    here.drop("captions")
    with pytest.raises(InvalidArgumentError, match="folder of rows cannot be at ftp://"):
        load_rows(here, "ftp://host/rows", "other", SPEC)


def test_damaged_folders(here: Store, images: Collection, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SourceError, match="there are no rows in"):
        load_rows(here, str(out), "other", SPEC)
    export_rows(here, "images", str(out), part_bytes=PART)
    first, second, *_ = sorted(out.glob("*.parquet"))
    content = first.read_bytes()
    first.write_bytes(content[:-1] + b"x")
    with pytest.raises(SourceError, match="is damaged: its content is not the one"):
        load_rows(here, str(out), "other", SPEC)
    first.write_bytes(content)
    second.unlink()
    with pytest.raises(SourceError, match="is missing"):
        load_rows(here, str(out), "other", SPEC)
    elsewhere = (out / MANIFEST).read_text().replace(second.name, "../secret.parquet")
    broken = {
        elsewhere: "names the file '../secret.parquet'",
        "{": "is not JSON",
        "[]": "expected: an object",
        '{"format": 7}': "has format 7",
        '{"format": 1}': "kind",
    }
    for text, message in broken.items():
        (out / MANIFEST).write_text(text)
        with pytest.raises(SourceError, match=message):
            load_rows(here, str(out), "other", SPEC)
    here.drop("other")


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("key", ["", "text", "integer"])
def test_columns_are_those_of_the_schema(kind: Kind, key: str) -> None:
    """A column for each field, in order and with the type that Milvus' bulk import reads, then the dynamic field as JSON."""
    options = CollectionOptions(partition_key="shop", partition_key_type=key) if key else DEFAULTS  # type: ignore[arg-type]
    schema = collection_schema(SPEC, kind, Header(kind, SPEC.label, SPEC.fingerprint), options)
    types = {"VARCHAR": pa.string(), "INT64": pa.int64(), "FLOAT_VECTOR": pa.list_(pa.float32())}
    expected = [(field.name, types[field.dtype.name]) for field in schema.fields]
    assert [(f.name, f.type) for f in arrow_schema(bundle_layout(SPEC, kind, options))] == [*expected, ("$meta", pa.string())]


def test_columns_are_those_of_pymilvus(tmp_path: Path) -> None:
    """The same rows, through pymilvus' own bulk writer, give the same table."""
    writer = pytest.importorskip("pymilvus.bulk_writer", reason="needs pymilvus[bulk_writer]")
    options = CollectionOptions(partition_key="shop")
    rows = [make_row(i, v, metadata={"shop": "a", "n": i}) for i, v in enumerate(unit_vectors(20))]
    folder = RowFolder.to_write(str(tmp_path / "ours"), bundle_layout(SPEC, "image", options), SPEC.label, SPEC.fingerprint)
    folder.upsert(rows)
    folder.settle()
    schema = collection_schema(SPEC, "image", Header("image", SPEC.label, SPEC.fingerprint), options)
    theirs = writer.LocalBulkWriter(schema, str(tmp_path / "theirs"), file_type=writer.BulkFileType.PARQUET)
    for row in rows:
        theirs.append_row(
            {
                "id": row.id,
                "uri": row.uri,
                "digest": row.digest,
                "size": row.size,
                "mtime_ns": row.mtime_ns,
                "embedding": row.embedding.tolist(),
                "image_tokens": row.content.encoded,  # type: ignore[union-attr]
                **row.metadata,
            }
        )
    theirs.commit()
    (file,) = (tmp_path / "ours").glob("*.parquet")
    (other,) = (tmp_path / "theirs").rglob("*.parquet")
    assert pq.read_table(file).equals(pq.read_table(other).replace_schema_metadata(None))


def test_texts_and_odd_metadata(here: Store, tmp_path: Path) -> None:
    texts = here.create("texts", SPEC, "text")
    contents = ("a", "漢字 🐕", "x" * 60_000)
    rows = [make_row(i, unit_vectors(3)[i], content=StoredText(text)) for i, text in enumerate(contents)]
    texts.upsert([replace(rows[0], metadata={"a b": [None], "c": 1.5}), *rows[1:]])
    export_rows(here, "texts", str(tmp_path / "out"))
    load_rows(here, str(tmp_path / "out"), "texts_2", SPEC)
    assert_same_rows(texts, here.open("texts_2", SPEC))
    for name in ("texts", "texts_2"):
        here.drop(name)


def test_the_partition_key_goes_along(here: Store, store: Store, tmp_path: Path) -> None:
    tenants = here.create("tenants", SPEC, options=CollectionOptions(partition_key="tenant"))
    tenants.upsert([make_row(i, v, metadata={"tenant": f"t{i % 2}"}) for i, v in enumerate(unit_vectors(10))])
    export_rows(here, "tenants", str(tmp_path / "out"))
    load_rows(store, str(tmp_path / "out"), "rows_tenants", SPEC)
    assert_same_rows(tenants, store.open("rows_tenants"))
    keys = [f["name"] for f in store._describe("rows_tenants")["fields"] if f.get("is_partition_key")]
    assert keys == ["tenant"]
    report = load_rows(here, str(tmp_path / "out"), "by_year", SPEC, options=CollectionOptions(partition_key="year"))
    assert counts(report) == (0, 0, 0, 0, 10)
    assert "has no 'year', the partition key" in report.failures[0].reason
    for name in ("tenants", "by_year"):
        here.drop(name)


def test_token_files_go_along(here: Store, tmp_path: Path) -> None:
    first = here.create("stored", STORED)
    rows = [replace(row, content=TokenFile(token_key(row.id, row.digest))) for row in make_rows(6)]
    keys = [row.content.key for row in rows if isinstance(row.content, TokenFile)]
    assert first.tokens is not None
    first.tokens.write({key: bytes([i]) * SPEC.tokens.n_bytes for i, key in enumerate(keys)})
    first.upsert(rows)
    first.tokens.remove(keys[5:])
    report = export_rows(here, "stored", str(tmp_path / "out"))
    assert counts(report) == (5, 0, 0, 0, 1)
    assert report.failures[0].reason == "its token file is missing"
    assert counts(load_rows(here, str(tmp_path / "out"), "stored_2", STORED)) == (5, 0, 0, 0, 0)
    second = here.open("stored_2", STORED)
    assert second.tokens is not None
    assert second.tokens.read(keys[:5], SPEC.tokens.n_bytes) == first.tokens.read(keys[:5], SPEC.tokens.n_bytes)
    first.tokens.write({keys[5]: bytes(SPEC.tokens.n_bytes)})
    first.delete([rows[0].id])
    assert counts(export_rows(here, "stored", str(tmp_path / "out"))) == (1, 0, 4, 1, 0)
    tokens = tmp_path / "out" / "tokens"
    kept = {path.relative_to(tokens).as_posix() for path in tokens.rglob("*") if path.is_file()}
    assert kept == set(keys[1:])
    for name in ("stored", "stored_2"):
        here.drop(name)


def test_places_in_an_object_store(here: Store, images: Collection) -> None:
    """fsspec's file system in memory stands for an object store: no folders, no renaming."""
    assert counts(export_rows(here, "images", "memory://bucket/rows/", part_bytes=PART)) == (200, 0, 0, 0, 0)
    assert counts(load_rows(here, "memory://bucket/rows", "from_memory", SPEC)) == (200, 0, 0, 0, 0)
    assert_same_rows(images, here.open("from_memory", SPEC))
    here.drop("from_memory")


def test_milvus_lite_imports_nothing(here: Store, images: Collection, tmp_path: Path) -> None:
    export_rows(here, "images", str(tmp_path / "out"))
    with pytest.raises(InvalidArgumentError, match="Milvus Lite has no bulk import"):
        load_rows(here, str(tmp_path / "out"), "imported", SPEC, bulk_import="out")
    here.drop("imported")


@pytest.mark.server
@pytest.mark.parametrize("key", ["", "tenant"])
def test_a_server_imports_the_files_itself(here: Store, milvus_server: MilvusServer, tmp_path: Path, key: str) -> None:
    rows = [make_row(i, v, metadata={"tenant": f"t{i % 3}", "n": i}) for i, v in enumerate(unit_vectors(150))]
    ours = here.open_or_create(f"imported{key}", SPEC, options=CollectionOptions(partition_key=key))
    ours.upsert(rows)
    out = milvus_server.folder / f"rows{key}"  # in the server's own storage
    export_rows(here, ours.name, str(out), part_bytes=PART)
    with milvus_server.connect(timeout_s=20) as store:
        try:
            report = load_rows(store, str(out), ours.name, SPEC, bulk_import=out.name)
            assert counts(report) == (150, 0, 0, 0, 0)
            assert_same_rows(ours, store.open(ours.name, SPEC))
            with pytest.raises(CollectionExistsError, match="has 150 rows"):
                load_rows(store, str(out), ours.name, SPEC, bulk_import=out.name)
            assert counts(load_rows(store, str(out), ours.name, SPEC)) == (0, 0, 150, 0, 0)
            with pytest.raises(StoreError, match="failed to import nowhere/"):
                load_rows(store, str(out), "imported_none", SPEC, bulk_import="nowhere")
        finally:
            for name in (ours.name, "imported_none"):
                if name in {info.name for info in store.list()}:
                    store.drop(name)
            shutil.rmtree(out)
    here.drop(ours.name)


def test_embeddings_of_another_size_are_found(here: Store, images: Collection, tmp_path: Path) -> None:
    export_rows(here, "images", str(tmp_path / "out"))
    (file,) = (tmp_path / "out").glob("*.parquet")
    table = pq.read_table(file)
    short = pa.array([[1.0] * (DIM - 1)] * len(table), pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.schema.get_field_index("embedding"), "embedding", short), file)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    content = file.read_bytes()
    manifest["parts"][0] |= {"n_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SourceError, match="embeddings of other sizes"):
        load_rows(here, str(tmp_path / "out"), "short", SPEC)
    here.drop("short")
