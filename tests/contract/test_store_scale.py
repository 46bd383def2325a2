"""What large collections need of a store: inserts, an index that is built once, partition keys, properties and aliases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from milvus_coop.errors import (
    BundleMismatchError,
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidArgumentError,
    StoreError,
)
from milvus_coop.store import Collection, CollectionOptions, Store
from milvus_coop.store.collection import UNSETTLED_ROWS
from tests.contract.store_samples import OTHER_SPEC, SPEC, make_row, make_rows, unit_vectors


@pytest.fixture(scope="module")
def shared(store: Store) -> Collection:
    return store.create("scale_images", SPEC)


@pytest.fixture
def images(shared: Collection) -> Collection:
    shared.delete([id for id, _ in shared.all_stamps()])
    return shared


@pytest.fixture(scope="module")
def tenants(store: Store) -> Collection:
    return store.create("scale_tenants", SPEC, options=CollectionOptions(partition_key="tenant"))


@pytest.fixture
def two(store: Store) -> Iterator[tuple[Collection, Collection]]:
    """Two collections of one bundle; aliases of a test are removed."""
    yield store.open_or_create("scale_first", SPEC), store.open_or_create("scale_second", SPEC)
    for alias in store.aliases.list():
        store.aliases.drop(alias)


def test_inserted_rows_are_there_once(images: Collection) -> None:
    rows = make_rows(UNSETTLED_ROWS + 100)
    for start in range(0, len(rows), 300):
        images.insert(rows[start : start + 300])
    images.settle()
    assert images.count() == len(rows)
    assert {id for id, _ in images.all_stamps()} == {row.id for row in rows}
    assert images.search(rows[7].embedding[None], 1)[0][0].id == rows[7].id


def test_rows_that_somebody_else_wrote_are_replaced(store: Store, images: Collection) -> None:
    """Two runs looked the same ids up before either wrote: inserts on both sides, in any order, and an upsert between."""
    rows = make_rows(60)
    another = store.open(images.name)
    images.insert(rows[:40])
    another.insert([replace(row, digest="theirs") for row in rows[20:]])
    another.settle()
    images.settle()
    assert images.count() == len(rows)
    assert {s.digest for s in images.stamps([row.id for row in rows[40:]]).values()} == {"theirs"}
    another.upsert([replace(row, digest="upserted") for row in rows])
    images.insert([replace(row, digest="last") for row in rows[:5]])
    images.settle()
    assert images.count() == len(rows)
    assert {s.digest for s in images.stamps([row.id for row in rows[:5]]).values()} == {"last"}
    images.settle()
    assert images.count() == len(rows)


def test_runs_that_race_leave_one_row_each(store: Store, images: Collection) -> None:
    rows = make_rows(600)

    def run(digest: str) -> None:
        collection = store.open(images.name)
        for start in range(0, len(rows), 100):
            collection.insert([replace(row, digest=digest) for row in rows[start : start + 100]])
        collection.settle()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, ["a", "b", "c"]))
    assert images.count() == len(rows)


def test_a_request_that_was_sent_twice(images: Collection) -> None:
    """The answer to an insert was lost, so it was sent again."""
    rows = make_rows(10)
    images.insert(rows)
    images.insert(rows[:3])
    images.settle()
    assert images.count() == len(rows)


def test_rows_deleted_before_they_settle_stay_deleted(images: Collection) -> None:
    rows = make_rows(10)
    images.insert(rows)
    images.delete([row.id for row in rows[:4]])
    images.settle()
    assert {id for id, _ in images.all_stamps()} == {row.id for row in rows[4:]}


def test_the_index_is_built_after_the_rows(store: Store) -> None:
    after = CollectionOptions(build_index="after")
    if store._connection.is_lite:
        with pytest.raises(InvalidArgumentError, match="Milvus Lite indexes its rows itself"):
            store.create("scale_after", SPEC, options=after)
        assert "scale_after" not in {info.name for info in store.list()}
        return
    images = store.create("scale_after", SPEC, options=after)
    rows = make_rows(1500)
    images.insert(rows)
    images.settle()
    assert images.info().index == "FLAT COSINE"
    assert store.describe("scale_after").index == "FLAT COSINE, HNSW not built yet"
    before = images.search(unit_vectors(5, seed=1), 20)
    steps: list[tuple[int, int]] = []
    assert store.build_index("scale_after", lambda *step: steps.append(step))
    assert steps
    assert store.describe("scale_after").index == "HNSW COSINE"
    found = images.search(unit_vectors(5, seed=1), 20)  # by the client that opened it before
    assert [[c.id for c in hits] for hits in found] == [[c.id for c in hits] for hits in before]
    assert not store.build_index("scale_after")
    assert images.count() == len(rows)


def test_an_interrupted_build_goes_on(store: Store) -> None:
    if store._connection.is_lite:
        assert not store.build_index(store.open_or_create("scale_first", SPEC).name)
        return
    store.create("scale_interrupted", SPEC, options=CollectionOptions(build_index="after")).upsert(make_rows(20))
    store._connection.call("release_collection", collection="scale_interrupted")
    store._connection.call("drop_index", collection="scale_interrupted", index_name="embedding")
    assert store.open("scale_interrupted", SPEC).count() == 20  # a run that only wants to write
    assert store.build_index("scale_interrupted")
    assert store.open("scale_interrupted", SPEC).info().index == "HNSW COSINE"


def test_a_partition_key_is_metadata_of_every_row(store: Store, tenants: Collection) -> None:
    rows = [make_row(i, v, metadata={"tenant": f"t{i % 3}", "year": i}) for i, v in enumerate(unit_vectors(30))]
    tenants.upsert(rows)
    (hits,) = tenants.search(rows[4].embedding[None], 30, filter="tenant == 't1'", output_fields=["*"])
    assert {c.id for c in hits} == {row.id for row in rows[1::3]}
    assert hits[0].fields == {"tenant": "t1", "year": 4}
    assert tenants.rows([rows[0].id])[rows[0].id].metadata == rows[0].metadata
    tenants.upsert([replace(rows[0], metadata={"tenant": "moved"})])
    assert tenants.count() == 30
    assert tenants.rows([rows[0].id])[rows[0].id].metadata == {"tenant": "moved"}
    tenants.delete([rows[1].id])
    assert tenants.count() == 29
    partition_keys = [f for f in store._describe(tenants.name)["fields"] if f.get("is_partition_key")]
    assert [f["name"] for f in partition_keys] == ["tenant"]


@pytest.mark.parametrize("metadata", [{}, {"tenant": None}, {"tenant": 7}, {"tenant": "x" * 513}])
def test_a_row_without_its_partition_key_is_refused(tenants: Collection, metadata: dict[str, object]) -> None:
    before = tenants.count()
    assert "the partition key of the collection" in tenants.refusal(metadata)
    for write in (tenants.upsert, tenants.insert):
        with pytest.raises(InvalidArgumentError, match="partition key of the collection"):
            write([*make_rows(0), make_row(1, unit_vectors(1)[0], metadata=metadata)])
    assert tenants.count() == before
    assert tenants.refusal({"tenant": "a"}) == ""


def test_a_partition_key_of_whole_numbers(store: Store) -> None:
    numbers = store.create("scale_numbers", SPEC, options=CollectionOptions(partition_key="shop", partition_key_type="integer"))
    numbers.upsert([make_row(1, unit_vectors(1)[0], metadata={"shop": 7})])
    assert [row.metadata for page in numbers.all_rows() for row in page] == [{"shop": 7}]
    assert numbers.refusal({"shop": True}) != "" != numbers.refusal({"shop": "7"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"partition_key": "uri"},
        {"partition_key": "a b"},
        {"partition_key_type": "float"},
        {"index": "IVF"},
        {"build_index": "never"},
        {"replicas": 0},
        {"properties": {"milvus_coop": "x"}},
    ],
)
def test_wrong_options(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        CollectionOptions(**wrong)  # type: ignore[arg-type]


def test_properties(store: Store) -> None:
    store.create("scale_properties", SPEC, options=CollectionOptions(properties={"mmap.enabled": "true"}))
    assert store._describe("scale_properties")["properties"]["mmap.enabled"] == "true"
    assert store.open("scale_properties", SPEC).count() == 0


def test_what_this_milvus_lacks(store: Store) -> None:
    """One node cannot hold two replicas, and Milvus 2.3 cannot map single fields. No collection stays."""
    for options, kind in (
        (CollectionOptions(replicas=2), StoreError),
        (CollectionOptions(mmap=("image_tokens",)), InvalidArgumentError),
        (CollectionOptions(mmap=("nonsense",)), InvalidArgumentError),
    ):
        with pytest.raises((kind, InvalidArgumentError)):
            store.create("scale_lacking", SPEC, options=options)
        assert "scale_lacking" not in {info.name for info in store.list()}


def test_an_alias_names_a_collection(store: Store, two: tuple[Collection, Collection]) -> None:
    first, second = two
    first.upsert(make_rows(3))
    second.upsert(make_rows(5))
    store.aliases.set("scale_now", first.name)
    store.aliases.set("scale_now", first.name)
    assert store.aliases.list() == {"scale_now": first.name}
    opened = store.open("scale_now", SPEC)
    assert (opened.name, opened.count(), store.describe("scale_now").name) == (first.name, 3, first.name)
    assert store.aliases.switch("scale_now", second.name) == first.name
    assert opened.count() == 3, "an open collection stays what it was"
    assert len(opened.search(unit_vectors(1), 10)[0]) == 3
    assert store.open("scale_now", SPEC).count() == 5
    assert store.resolve("scale_now") == store.resolve(second.name) == (second.name, second.header)
    assert store.aliases.drop("scale_now") == second.name
    with pytest.raises(CollectionNotFoundError):
        store.open("scale_now", SPEC)
    first.delete([row.id for row in make_rows(3)])
    second.delete([row.id for row in make_rows(5)])


def test_aliases_that_make_no_sense(store: Store, two: tuple[Collection, Collection]) -> None:
    first, second = two
    store.aliases.set("scale_now", first.name)
    with pytest.raises(CollectionExistsError, match="alias switch scale_now scale_second"):
        store.aliases.set("scale_now", second.name)
    with pytest.raises(CollectionExistsError, match="is the name of a collection"):
        store.aliases.set(second.name, first.name)
    with pytest.raises(CollectionNotFoundError, match="no collection 'scale_none'"):
        store.aliases.set("scale_other", "scale_none")
    with pytest.raises(CollectionNotFoundError, match="no alias 'scale_none'"):
        store.aliases.switch("scale_none", first.name)
    with pytest.raises(CollectionNotFoundError, match="no alias 'scale_none'"):
        store.aliases.drop("scale_none")
    with pytest.raises(InvalidArgumentError, match="'scale_now' is an alias of 'scale_first'"):
        store.drop("scale_now")
    with pytest.raises(InvalidArgumentError, match="has the alias 'scale_now'"):
        store.drop(first.name)
    assert store.aliases.list() == {"scale_now": first.name}


def test_an_alias_moves_to_another_bundle_only_if_that_is_meant(store: Store, two: tuple[Collection, Collection]) -> None:
    first, _ = two
    others = (store.open_or_create("scale_other", OTHER_SPEC), store.open_or_create("scale_texts", SPEC, "text"))
    store.aliases.set("scale_now", first.name)
    for other in others:
        with pytest.raises(BundleMismatchError, match="--other-bundle"):
            store.aliases.switch("scale_now", other.name)
        assert store.aliases.switch("scale_now", other.name, other_bundle=True) == first.name
        assert store.aliases.switch("scale_now", first.name, other_bundle=True) == other.name
