"""What a store promises, against Milvus Lite and a real Milvus server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from milvus_coop.errors import (
    BundleMismatchError,
    CollectionExistsError,
    CollectionNotFoundError,
    FilterError,
    InvalidArgumentError,
    StoreError,
    StoreTimeoutError,
)
from milvus_coop.store import Collection, CollectionOptions, Fields, Store
from milvus_coop.store.schema import states_bytes
from milvus_coop.store.view import ROWS_PER_PAGE
from milvus_coop.types import Array, ImageFile, StoredText, StoredTokens, TokenFile
from tests.contract.store_samples import DIM, OTHER_SPEC, SPEC, make_row, make_rows, unit_vectors

SCORE_TOLERANCE = 1e-5  # float32 sums in another order


@pytest.fixture(scope="module")
def shared_images(store: Store) -> Collection:
    """Making a collection takes a server 3 s, so the tests share one."""
    return store.create("contract_images", SPEC)


@pytest.fixture
def images(shared_images: Collection) -> Collection:
    shared_images.delete([id for id, _ in shared_images.all_stamps()])
    return shared_images


@pytest.fixture(scope="module")
def texts(store: Store) -> Collection:
    return store.create("contract_texts", SPEC, "text", options=CollectionOptions(index="AUTOINDEX"))


def exact_order(query: Array, embeddings: Array, k: int) -> list[int]:
    return [int(i) for i in np.argsort(-(embeddings @ query), kind="stable")[:k]]


def test_search_finds_what_a_full_scan_finds(images: Collection) -> None:
    rows = make_rows(300)
    images.upsert(rows)
    embeddings = np.stack([r.embedding for r in rows])
    queries = unit_vectors(7, seed=1)
    results = images.search(queries, 12)
    assert len(results) == 7
    for query, candidates in zip(queries, results, strict=True):
        expected = [rows[i] for i in exact_order(query, embeddings, 12)]
        assert [c.id for c in candidates] == [r.id for r in expected]
        assert [c.uri for c in candidates] == [r.uri for r in expected]
        assert [c.content for c in candidates] == [r.content for r in expected]
        np.testing.assert_allclose([c.be_score for c in candidates], [r.embedding @ query for r in expected], atol=SCORE_TOLERANCE)


ODD_IDS = ["unknown", "", "\n", "\ud800", "x" * 100, '"] or id != ["', "7"]


def test_candidates_by_id_are_what_a_search_finds(images: Collection) -> None:
    rows = make_rows(2100)
    images.upsert(rows)
    query = unit_vectors(1, seed=1)
    expected = images.search(query, 5)[0]
    ids = [c.id for c in reversed(expected)]
    others = [row.id for row in rows if row.id not in ids]
    found = images.candidates([*ids, *ODD_IDS, *others], query[0])
    assert [c.id for c in found] == ids + others
    for candidate, same in zip(found, reversed(expected), strict=False):
        assert replace(candidate, be_score=same.be_score) == same
        assert candidate.be_score == pytest.approx(same.be_score, abs=SCORE_TOLERANCE)
    assert images.candidates(ODD_IDS, query[0]) == images.candidates([], query[0]) == []
    images.delete(ids[:1])
    assert [c.id for c in images.candidates(ids, query[0])] == ids[1:]


def test_rows_come_back_as_they_were_written(images: Collection) -> None:
    rows = [make_row(i, v, metadata={"year": 1990 + i, "tags": ["a", "b"]}) for i, v in enumerate(unit_vectors(30))]
    images.upsert(rows)
    found = images.rows([row.id for row in rows[:20]] + ["unknown", rows[0].id])
    assert sorted(found) == sorted(row.id for row in rows[:20])
    for row in rows[:20]:
        again = found[row.id]
        np.testing.assert_array_equal(again.embedding, row.embedding)
        assert again.embedding.dtype == np.float32
        assert replace(again, embedding=row.embedding) == row


def test_equal_scores_are_ordered_by_id(images: Collection) -> None:
    vector = unit_vectors(1)[0]
    images.upsert([make_row(i, vector) for i in range(20)])
    ids = [c.id for c in images.search(vector[None], 20)[0]]
    assert ids == sorted(ids)
    assert len(ids) == 20


def test_scores_are_cosines_and_never_above_one(images: Collection) -> None:
    rows = make_rows(50)
    images.upsert(rows)
    for row, candidates in zip(rows, images.search(np.stack([r.embedding for r in rows]), 1), strict=True):
        assert candidates[0].id == row.id
        assert 1 - SCORE_TOLERANCE <= candidates[0].be_score <= 1.0


def test_search_with_no_rows_no_queries_and_more_candidates_than_rows(images: Collection) -> None:
    assert images.search(unit_vectors(2), 5) == [[], []]
    assert images.search(unit_vectors(0), 5) == []
    images.upsert(make_rows(3))
    assert len(images.search(unit_vectors(1), 2000)[0]) == 3


def test_own_writes_are_visible_at_once(images: Collection) -> None:
    for i, vector in enumerate(unit_vectors(5)):
        row = make_row(i, vector)
        images.upsert([row])
        assert images.search(vector[None], 1)[0][0].id == row.id
        images.delete([row.id])
        assert images.search(vector[None], 1) == [[]]


def test_upsert_replaces_the_row_of_that_id(images: Collection) -> None:
    old, new = unit_vectors(2)
    images.upsert([make_row(1, old, metadata={"tag": "old"})])
    images.upsert([make_row(1, new, digest="changed")])
    (candidate,) = images.search(new[None], 5, output_fields=["tag", "digest"])[0]
    assert candidate.be_score == pytest.approx(1.0, abs=SCORE_TOLERANCE)
    assert candidate.fields == {"digest": "changed"}
    assert images.count() == 1


def test_the_last_of_repeated_ids_wins(images: Collection) -> None:
    first, last = unit_vectors(2)
    images.upsert([make_row(1, first), make_row(2, first), make_row(1, last, digest="last")])
    assert images.count() == 2
    row = make_row(1, last)
    assert images.stamps([row.id])[row.id].digest == "last"


def test_metadata_filters_and_comes_back(images: Collection) -> None:
    metadata: list[dict[str, Any]] = [
        {"year": 2019, "tag": "cat", "deep": {"a": [1, {"b": None}]}, "rate": 0.5, "ok": True},
        {"year": 2021, "tag": "Straße 漢字 😀", "quote": "a\"b'c\\d\n"},
        {},
    ]
    rows = [make_row(i, v, metadata=m) for i, (v, m) in enumerate(zip(unit_vectors(3), metadata, strict=True))]
    images.upsert(rows)
    queries = np.stack([r.embedding for r in rows])
    best = [found[0] for found in images.search(queries, 3, output_fields=["*"])]
    assert [c.fields for c in best] == metadata
    best = [found[0] for found in images.search(queries, 3, output_fields=["tag", "year", "size"])]
    assert best[0].fields == {"tag": "cat", "year": 2019, "size": 1000}
    assert best[2].fields == {"size": 1002}
    for expression, expected in (
        ("year > 2020", {rows[1].id}),
        ("tag == 'Straße 漢字 😀'", {rows[1].id}),
        ("tag like 'ca%' and ok == true", {rows[0].id}),
        ("deep['a'][0] == 1", {rows[0].id}),
        ("size >= 1001 and size != 1001", {rows[2].id}),
        ("nowhere == 1", set()),
    ):
        assert {c.id for c in images.search(queries[:1], 3, filter=expression)[0]} == expected, expression


@pytest.mark.parametrize("expression", ["year >", "size >> !", "size == 'large'", "frob(uri)", "1", "embedding > 3"])
def test_a_bad_filter_is_named(shared_images: Collection, expression: str) -> None:
    with pytest.raises(FilterError) as caught:
        shared_images.search(unit_vectors(1), 3, filter=expression)
    assert expression in caught.value.given
    assert caught.value.__cause__ is not None


MISFITS: list[dict[str, Any]] = [
    {"id": ""},
    {"id": "x" * 65},
    {"id": "é" * 33},
    {"id": "a\nb"},
    {"uri": "é" * 1500},
    {"uri": "file:///\udcff.png"},
    {"digest": "d" * 65},
    {"content": StoredTokens("A" * 65_536)},
    {"content": StoredText("a dog")},
    {"content": TokenFile("ab/" + "ab" * 16 + "-" + "0" * 32)},
    {"content": ImageFile("file:///pictures/1.png")},
    {"embedding": np.zeros(DIM + 1, np.float32)},
    {"embedding": np.full(DIM, np.nan, np.float32)},
    *({"metadata": {key: 1}} for key in ("id", "uri", "embedding", "image_tokens", "text", "mtime_ns", "$meta", "$x", "")),
    {"metadata": {"a": {1, 2}}},
    {"metadata": {"a": float("nan")}},
    {"metadata": {"a": 2**63}},
    {"metadata": {"a": "\ud800"}},
    {"metadata": {"a": "x" * 70_000}},
]


def test_a_row_that_does_not_fit_is_refused_before_anything_is_written(shared_images: Collection) -> None:
    before = shared_images.count()
    good, bad = make_rows(2, seed=9)
    for change in MISFITS:
        with pytest.raises(InvalidArgumentError):
            shared_images.upsert([good, replace(bad, **change)])
    assert shared_images.count() == before


def test_bad_queries_are_refused(shared_images: Collection) -> None:
    for queries in (unit_vectors(1)[0], np.zeros((1, DIM + 1), np.float32), np.full((1, DIM), np.inf, np.float32)):
        with pytest.raises(InvalidArgumentError, match="shape"):
            shared_images.search(queries, 3)
    for k in (0, -1, 16_385):
        with pytest.raises(InvalidArgumentError, match="k is"):
            shared_images.search(unit_vectors(1), k)


def test_ids_and_uris_hold_any_text_and_filters_cannot_be_injected(images: Collection) -> None:
    ids = ['" or id != "', "'] or 1 == 1 or id in ['", "back\\", '\\" or true', "漢字-é-😀", "%", "a b", "$meta", "{x}"]
    vectors = unit_vectors(len(ids) + 1)
    images.upsert([make_row(i, v, id=id, uri=f"/tmp/{id}.png") for i, (id, v) in enumerate(zip(ids, vectors, strict=False))])
    images.upsert([make_row(99, vectors[-1], id="bystander")])
    stamps = images.stamps(ids)
    assert {id: stamp.uri for id, stamp in stamps.items()} == {id: f"/tmp/{id}.png" for id in ids}
    assert [id for id, _ in images.all_stamps()] == sorted([*ids, "bystander"], key=str.encode)
    for id in ids:
        images.delete([id])
    assert [id for id, _ in images.all_stamps()] == ["bystander"]
    with pytest.raises(InvalidArgumentError, match="control characters"):
        images.delete(["a\nb"])


def test_stamps_know_what_was_written(images: Collection) -> None:
    rows = make_rows(5)
    images.upsert(rows)
    stamps = images.stamps([*(r.id for r in rows), "unknown", rows[0].id])
    assert {id: (s.uri, s.digest, s.size, s.mtime_ns) for id, s in stamps.items()} == {
        r.id: (r.uri, r.digest, r.size, r.mtime_ns) for r in rows
    }
    assert images.stamps([]) == {}
    images.delete([])
    images.delete(["unknown"])
    images.delete([r.id for r in rows[:2]])
    assert set(images.stamps([r.id for r in rows])) == {r.id for r in rows[2:]}


def test_many_may_be_any_iterable_and_one_is_not_many(images: Collection) -> None:
    rows = make_rows(5)
    ids = [row.id for row in rows]
    images.upsert(iter(rows))
    assert set(images.stamps(iter(ids))) == set(ids)
    assert set(images.rows(iter(ids))) == set(ids)
    assert images.uris(iter(ids)) == {row.id: row.uri for row in rows}
    assert [candidate.id for candidate in images.candidates(iter([*ids, ids[0]]), rows[0].embedding)] == ids
    (found,) = images.search(rows[0].embedding[None], 1, output_fields=iter(["digest"]))
    assert set(found[0].fields) == {"digest"}
    images.delete(iter(ids[:2]))
    assert images.count() == 3
    calls: tuple[Callable[[Any], object], ...] = (images.stamps, images.rows, images.uris, images.delete, images.upsert)
    for call in calls:
        for one in (ids[0], b"x", None, 5, {ids[0]: 1}):
            with pytest.raises(InvalidArgumentError, match=r"^(ids|rows) is "):
                call(one)
    with pytest.raises(InvalidArgumentError, match="output_fields is 'digest'"):
        images.search(rows[0].embedding[None], 1, output_fields="digest")


def test_all_stamps_reads_every_row_once_over_several_pages(images: Collection) -> None:
    n = 2 * ROWS_PER_PAGE + 17
    rows = make_rows(n)
    images.upsert(rows)
    pages = images.all_stamps()
    found = dict(pages)
    assert list(found) == sorted(r.id for r in rows)
    assert found[rows[7].id].mtime_ns == rows[7].mtime_ns
    assert images.count() == n
    assert len(images.stamps([r.id for r in rows])) == n
    for id, _ in images.all_stamps():  # deleting what was yielded loses nothing
        if id == rows[-1].id:
            images.delete([id])
    assert images.count() == n - 1


def test_texts_hold_their_text(texts: Collection) -> None:
    assert texts.kind == "text"
    row = make_row(1, unit_vectors(1)[0], content=StoredText("ein Straßenschild 漢字\nzweite Zeile"))
    longest = make_row(2, -unit_vectors(1)[0], content=StoredText("é" * 32_767))
    texts.upsert([row, longest])
    best, last = texts.search(row.embedding[None], 2)[0]
    assert (best.content, last.content) == (row.content, longest.content)
    assert texts.info().index == "AUTOINDEX COSINE"
    with pytest.raises(InvalidArgumentError, match="text of"):
        texts.upsert([replace(row, content=StoredText("é" * 32_768))])


def test_texts_hold_their_states(texts: Collection) -> None:
    limit = states_bytes(SPEC, "text")
    row = make_row(1, unit_vectors(1)[0], content=StoredText("a dog", "x" * limit))
    texts.upsert([row, make_row(2, -unit_vectors(1)[0], content=StoredText("a cat"))])
    assert {candidate.content for candidate in texts.search(unit_vectors(1), 2)[0]} == {row.content, StoredText("a cat")}
    assert [found.content for found in texts.rows([row.id]).values()] == [row.content]
    with pytest.raises(InvalidArgumentError, match=rf"text_states of .* takes {limit + 1} bytes; expected: at most {limit}"):
        texts.upsert([replace(row, content=StoredText("a dog", "x" * (limit + 1)))])


def test_list_and_describe(store: Store, images: Collection, texts: Collection) -> None:
    images.upsert(make_rows(4))
    info = {i.name: i for i in store.list()}
    assert info["contract_images"] == images.info() == store.describe("contract_images")
    assert info["contract_images"].kind == "image"
    assert info["contract_images"].bundle == "tiny 1"
    assert info["contract_images"].fingerprint == SPEC.fingerprint
    assert (info["contract_images"].dim, info["contract_images"].count) == (DIM, 4)
    assert info["contract_images"].index == "HNSW COSINE"
    assert info["contract_texts"].kind == texts.info().kind == "text"


def test_another_bundle_is_refused(store: Store, shared_images: Collection) -> None:
    assert store.open(shared_images.name).kind == "image"
    assert store.open(shared_images.name, SPEC).kind == "image"
    for call in (store.open, store.open_or_create):
        with pytest.raises(BundleMismatchError, match=r"tiny 1.*other 1"):
            call(shared_images.name, OTHER_SPEC)


def test_fields_of_our_own_collections_are_not_up_to_the_caller(store: Store, shared_images: Collection) -> None:
    with pytest.raises(InvalidArgumentError, match="fields="):
        store.open(shared_images.name, SPEC, fields=Fields())


def test_create_and_open_or_create_respect_what_exists(store: Store, shared_images: Collection) -> None:
    with pytest.raises(CollectionExistsError):
        store.create(shared_images.name, SPEC)
    with pytest.raises(CollectionExistsError, match="holds images"):
        store.open_or_create(shared_images.name, SPEC, "text")
    assert store.open_or_create(shared_images.name, SPEC, "image").kind == "image"


def test_a_missing_collection_is_named(store: Store) -> None:
    for call in (store.open, store.describe, store.drop):
        with pytest.raises(CollectionNotFoundError, match="contract_missing"):
            call("contract_missing")


@pytest.mark.parametrize("name", ["", "bad name", "1st", "a-b", "ä", "x" * 256, "a/../b", "a;b"])
def test_bad_collection_names_are_refused(store: Store, name: str) -> None:
    for call in (
        lambda: store.create(name, SPEC),
        lambda: store.open(name),
        lambda: store.describe(name),
        lambda: store.drop(name),
    ):
        with pytest.raises(InvalidArgumentError, match="cannot name a collection"):
            call()


def test_drop_forgets_rows_and_bundle(store: Store) -> None:
    collection = store.open_or_create("contract_dropped", SPEC)
    collection.upsert(make_rows(2))
    store.drop("contract_dropped")
    with pytest.raises(CollectionNotFoundError):
        store.describe("contract_dropped")
    with pytest.raises(StoreError, match="contract_dropped"):
        collection.search(unit_vectors(1), 1)
    assert store.create("contract_dropped", OTHER_SPEC).count() == 0


def test_a_late_answer_is_a_timeout(images: Collection) -> None:
    """The caller is told at its limit, and not when the answer is there: of three tries, the quickest of each kind are compared."""
    images.upsert(make_rows(2000))
    whole_s, late_s = [], []
    for _ in range(3):
        start = time.monotonic()
        images.search(unit_vectors(20), 1000, timeout_s=60)
        whole_s.append(time.monotonic() - start)
        start = time.monotonic()
        with pytest.raises(StoreTimeoutError, match="search within"):
            images.search(unit_vectors(20), 1000, timeout_s=0.002)
        late_s.append(time.monotonic() - start)
    assert min(late_s) < min(whole_s) / 2


def test_eight_threads_search_while_one_writes(images: Collection) -> None:
    rows = make_rows(1500)
    images.upsert(rows[:1000])
    stop = threading.Event()

    def write() -> None:
        for start in range(1000, 1500, 50):
            images.upsert(rows[start : start + 50])
            images.delete([r.id for r in rows[start - 1000 : start - 990]])
        stop.set()

    def search(seed: int) -> int:
        rounds = 0
        while not stop.is_set() or rounds < 3:
            assert len(images.search(unit_vectors(2, seed), 10)[0]) == 10
            rounds += 1
        return rounds

    with ThreadPoolExecutor(9) as pool:
        writer = pool.submit(write)
        searchers = [pool.submit(search, seed) for seed in range(8)]
        writer.result(60)
        assert min(s.result(60) for s in searchers) >= 3
    assert images.count() == 1400


def test_readers_always_see_what_was_acknowledged(images: Collection) -> None:
    rows = make_rows(3600)
    acknowledged = 0
    done = threading.Event()

    def repeat(check: Callable[[int], object]) -> int:
        rounds = 0
        while not done.is_set():
            check(acknowledged)
            rounds += 1
        return rounds

    def check_count(before: int) -> None:
        assert images.count() >= before

    def check_search(before: int) -> None:
        if before:
            newest = rows[before - 1]
            assert images.search(newest.embedding[None], 1)[0][0].id == newest.id

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(repeat, check) for check in (check_count, check_count, check_search)]
        for start in range(0, len(rows), 600):
            images.upsert(rows[start : start + 600])
            acknowledged = start + 600
        done.set()
        assert sum(r.result(60) for r in readers) > 0
