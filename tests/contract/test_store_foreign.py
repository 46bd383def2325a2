"""Collections that somebody else made: found, described, searched with `fields=`, and never written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pymilvus import DataType, MilvusClient

from milvus_coop.errors import ForeignCollectionError, StoreError
from milvus_coop.store import Fields, Store
from milvus_coop.types import Array, ImageFile, StoredText, StoredTokens
from tests.contract.store_samples import DIM, SPEC, make_rows, unit_vectors

SCORE_TOLERANCE = 1e-5  # float32 sums in another order
NAME = "contract_foreign"
FIELDS = Fields(id="number", uri="path", embedding="vector")


@pytest.fixture(scope="module")
def vectors(store: Store, store_uri: str) -> Array:
    """The embeddings in a collection that a plain MilvusClient of the same process makes beside our store."""
    client = MilvusClient(store_uri, dedicated=True)
    schema = client.create_schema(enable_dynamic_field=True, description=json.dumps({"made": "by hand"}))
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("caption", DataType.VARCHAR, max_length=200)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="IVF_FLAT", metric_type="IP", params={"nlist": 4})
    client.create_collection(NAME, schema=schema, index_params=index)
    vectors = unit_vectors(20)
    data = [{"number": i, "vector": v, "caption": f"picture {i}", "path": f"/p/{i}"} for i, v in enumerate(vectors)]
    client.upsert(NAME, data)
    client.close()
    return vectors


def test_it_needs_fields(store: Store, vectors: Array) -> None:
    with pytest.raises(ForeignCollectionError, match="fields="):
        store.open(NAME, SPEC)
    with pytest.raises(ForeignCollectionError):
        store.open_or_create(NAME, SPEC)
    info = {i.name: i for i in store.list()}[NAME]
    assert (info.kind, info.bundle, info.dim, info.count, info.index) == (None, "", DIM, len(vectors), "IVF_FLAT IP")


def test_it_can_be_searched(store: Store, vectors: Array) -> None:
    collection = store.open(NAME, SPEC, fields=FIELDS)
    best = collection.search(vectors[:3], 5, output_fields=["caption"], filter="caption != 'picture 1'")
    assert [b[0].id for b in (best[0], best[2])] == ["0", "2"]
    assert (best[0][0].uri, best[0][0].content, best[0][0].fields) == ("/p/0", None, {"caption": "picture 0"})
    assert best[0][0].be_score == pytest.approx(1.0, abs=SCORE_TOLERANCE)


def test_its_numbers_are_ids(store: Store, vectors: Array) -> None:
    collection = store.open(NAME, SPEC, fields=FIELDS)
    found = collection.candidates(["7", "01", "-5", "x", "9" * 19, "1" * 30, "3"], vectors[3])
    assert [(c.id, c.uri) for c in found] == [("7", "/p/7"), ("3", "/p/3")]
    assert [c.be_score for c in found] == pytest.approx([vectors[7] @ vectors[3], 1.0], abs=SCORE_TOLERANCE)


def test_uris_of_numbers(store: Store, vectors: Array) -> None:
    collection = store.open(NAME, SPEC, fields=FIELDS)
    assert collection.uris(["7", "x", "9" * 30, "3"]) == {"3": "/p/3", "7": "/p/7"}
    assert collection.uris(["x"]) == {}
    assert store.open(NAME, SPEC, fields=replace(FIELDS, uri="other")).uris(["7"]) == {}


def test_a_collection_of_a_later_version_hides_no_other(store: Store, store_uri: str, vectors: Array) -> None:
    client = MilvusClient(store_uri, dedicated=True)
    header = json.dumps({"milvus_coop": 99, "kind": "image"})
    schema = client.create_schema(description=header)
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    client.create_collection("contract_later", schema=schema, properties={"milvus_coop": header})
    try:
        with pytest.raises(StoreError, match=r"the collection 'contract_later' has format 99; expected: format 1"):
            store.describe("contract_later")
        found = {info.name: info.kind for info in store.list()}
        assert {NAME, "contract_later"} <= set(found)
        assert found["contract_later"] is None
    finally:
        client.drop_collection("contract_later")
        client.close()


def test_it_can_hold_texts(store: Store, vectors: Array) -> None:
    collection = store.open(NAME, SPEC, fields=replace(FIELDS, content="caption", kind="text"))
    assert collection.kind == "text"
    assert collection.search(vectors[3:4], 1)[0][0].content == StoredText("picture 3")


def test_it_can_hold_tokens(store: Store, vectors: Array) -> None:
    collection = store.open(NAME, SPEC, fields=replace(FIELDS, content="caption"))
    assert collection.search(vectors[3:4], 1)[0][0].content == StoredTokens("picture 3")


def test_its_images_are_opened_if_the_bundle_keeps_no_tokens(store: Store, vectors: Array) -> None:
    spec = replace(SPEC, tokens=replace(SPEC.tokens, count=0, dim=0, keep="nowhere"))
    collection = store.open(NAME, spec, fields=FIELDS)
    assert collection.search(vectors[3:4], 1)[0][0].content == ImageFile("/p/3")
    captions = store.open(NAME, spec, fields=replace(FIELDS, content="caption", kind="text"))
    assert captions.search(vectors[3:4], 1)[0][0].content == StoredText("picture 3")


def test_it_is_not_written(store: Store, vectors: Array) -> None:
    collection = store.open(NAME, SPEC, fields=FIELDS)
    assert collection.count() == len(vectors)
    for call in (
        lambda: collection.upsert(make_rows(1)),
        lambda: collection.delete(["0"]),
        lambda: collection.stamps(["0"]),
        lambda: list(collection.all_stamps()),
    ):
        with pytest.raises(ForeignCollectionError):
            call()


@pytest.mark.parametrize("change", [{"id": "caption"}, {"id": "pk"}, {"embedding": "caption"}, {"content": "vector"}])
def test_wrong_fields_are_refused(store: Store, vectors: Array, change: dict[str, Any]) -> None:
    with pytest.raises(ForeignCollectionError):
        store.open(NAME, SPEC, fields=replace(FIELDS, **change))


def test_another_dimension_is_refused(store: Store, vectors: Array) -> None:
    with pytest.raises(ForeignCollectionError, match="8 numbers"):
        store.open(NAME, replace(SPEC, dim=16), fields=FIELDS)
