"""Collections of texts with and without states: searches, upgrades, and Parquet files between the two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pymilvus import DataType, MilvusClient

from milvus_coop import CoopIngest, CoopSearch, Store, load_bundle
from milvus_coop.bundle.spec import IMAGE_ENCODER, TEXT_ENCODER
from milvus_coop.cli.main import cli
from milvus_coop.config import Settings
from milvus_coop.models.open import open_models
from milvus_coop.store import export_rows, load_rows
from milvus_coop.store.schema import HEADER, TEXT_STATES, VARCHAR_BYTES, Header, index_params
from milvus_coop.types import SearchResult, StoredText
from tests.unit.test_text_states import IMAGES, TEXTS, Counting

SPEC = load_bundle("coop-small").spec
NEW, OLD = "captions", "old_captions"


def make_old(uri: str) -> None:
    """Make a collection of texts as the first version did: without a field for states."""
    client = MilvusClient(uri)
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    for name, n_bytes in (("id", 64), ("uri", 2048), ("digest", 64), ("text", VARCHAR_BYTES)):
        schema.add_field(name, DataType.VARCHAR, is_primary=name == "id", max_length=n_bytes)
    schema.add_field("size", DataType.INT64)
    schema.add_field("mtime_ns", DataType.INT64)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=SPEC.dim)
    header = Header("text", SPEC.label, SPEC.fingerprint)
    client.create_collection(OLD, schema=schema, properties={HEADER: header.to_json()})
    client.create_index(OLD, index_params("HNSW"))
    client.close()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("states")
    uri, source = str(folder / "lite.db"), folder / "captions.txt"
    source.write_text("\n".join(TEXTS))
    make_old(uri)
    for name in (NEW, OLD):
        with CoopIngest(name, kind="text", uri=uri) as ingest:
            assert ingest.run([source]).added == len(TEXTS)
    return uri


@pytest.fixture(scope="module")
def backend() -> Iterator[Counting]:
    models = open_models(Settings())
    yield Counting(models.backend)
    models.close()


def query(uri: str, name: str, backend: Counting) -> SearchResult:
    with CoopSearch(name, uri=uri, models=backend) as search:
        backend.rows.clear()
        return search.query(image=IMAGES[0], k=20, limit=20)


def contents(uri: str, name: str) -> list[StoredText]:
    with Store(uri) as store:
        return [row.content for page in store.open(name).all_rows() for row in page if isinstance(row.content, StoredText)]


def test_both_give_the_same_hits_and_only_the_old_one_encodes_texts(uri: str, backend: Counting) -> None:
    new = query(uri, NEW, backend)
    assert (new.reranked_count, backend.rows.get(TEXT_ENCODER, 0), backend.rows[IMAGE_ENCODER]) == (20, 0, 1)
    old = query(uri, OLD, backend)
    assert (old.reranked_count, backend.rows[TEXT_ENCODER]) == (20, 20)
    assert new[0].text == old[0].text
    by_text = {hit.text: hit for hit in old}
    for hit in new:
        assert hit.ce_score == pytest.approx(by_text[hit.text].ce_score, abs=0.005)  # see tests/unit/test_text_states.py
    assert TEXT_STATES not in new[0].fields


def test_rows_hold_states_and_users_do_not_see_them(uri: str) -> None:
    assert all(content.states for content in contents(uri, NEW))
    assert not any(content.states for content in contents(uri, OLD))
    with CoopSearch(NEW, uri=uri) as search:
        (hit,) = search.query(image=IMAGES[0], limit=1, output_fields=["*"], rerank=False)
    assert hit.fields == {}


def test_describe_and_doctor_know_the_old_one(uri: str) -> None:
    with Store(uri) as store:
        assert {info.name: info.tokens for info in store.list()} == {NEW: "in the collection", OLD: ""}
        assert store.open(NEW).info().tokens == "in the collection"
    done = CliRunner().invoke(cli, ["doctor", "--json", "--uri", uri])
    checks = [check for line in done.stdout.splitlines() if (check := json.loads(line))["name"] == "text states"]
    assert [(check["state"], f"'{OLD}'" in check["detail"], "--texts" in check["install"]) for check in checks] == [
        ("off", True, True)
    ]


def test_parquet_files_go_both_ways(uri: str, tmp_path: Path, backend: Counting) -> None:
    pytest.importorskip("pyarrow")
    target = str(tmp_path / "other.db")
    make_old(target)
    with Store(uri) as store, Store(target) as other:
        for name, loaded in ((NEW, "new"), (OLD, "of_old")):
            assert export_rows(store, name, str(tmp_path / name)).added == len(TEXTS)
            assert load_rows(other, str(tmp_path / name), loaded, SPEC).added == len(TEXTS)
        assert load_rows(other, str(tmp_path / NEW), OLD, SPEC).added == len(TEXTS)
        assert all(row.metadata == {} for page in other.open(OLD).all_rows() for row in page)
    assert sorted(contents(target, "new"), key=lambda c: c.text) == sorted(contents(uri, NEW), key=lambda c: c.text)
    assert not any(content.states for content in (*contents(target, OLD), *contents(target, "of_old")))
    assert query(target, "of_old", backend).reranked_count == 20
    # A folder whose files are of an earlier version goes on with new files.
    with Store(target) as other:
        assert export_rows(other, "new", str(tmp_path / OLD)).unchanged == len(TEXTS)
