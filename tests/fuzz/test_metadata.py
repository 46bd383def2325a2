"""Metadata of any kind is stored as it is, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.ingest.items import Item, checked, hash_of_metadata
from milvus_coop.store import Store
from milvus_coop.store.collection import Collection
from milvus_coop.store.metadata import plain_metadata
from milvus_coop.types import Failure, Row, StoredTokens
from tests.fuzz.runs import check_message, holds, lengths
from tests.fuzz.values import METADATA, deep
from tests.integration.ingest_kit import DIM, SPEC


@lengths(short=200, long=2000)
def test_metadata_is_plain_json_or_refused(inputs: int) -> None:
    accepted = 0

    def rule(metadata: dict[Any, Any]) -> None:
        nonlocal accepted
        entry = checked(Item("/a.jpg", metadata=metadata), "list.jsonl:1")
        try:
            plain, n_bytes = plain_metadata(metadata)
        except InvalidArgumentError as exc:
            check_message(exc)
            refused = Failure("list.jsonl:1", str(exc))
        if isinstance(entry, Failure):
            assert entry == refused
            return
        accepted += 1
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        assert json.loads(text) == plain
        assert len(text.encode()) == n_bytes
        assert plain_metadata(plain) == (plain, n_bytes)
        assert entry.metadata == plain or not metadata
        assert len(hash_of_metadata(entry.metadata)) == 32

    holds(rule, METADATA, inputs)
    assert accepted > inputs // 20


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with Store(tmp_path_factory.mktemp("fuzz") / "lite.db") as store:
        yield store.open_or_create("images", SPEC, "image")


@lengths(short=30, long=300)
def test_milvus_gives_accepted_metadata_back(inputs: int, collection: Collection) -> None:
    def rule(metadata: dict[Any, Any]) -> None:
        try:
            plain, _ = plain_metadata(metadata)
        except InvalidArgumentError:
            return
        row = Row("a", "/a.jpg", "d", 1, 1, np.eye(1, DIM, dtype=np.float32)[0], StoredTokens("AAAA"), plain)
        collection.upsert([row])
        (found,) = collection.search(row.embedding[None], 1, output_fields=list(plain))
        assert {k: v for k, v in found[0].fields.items() if v is not None} == {k: v for k, v in plain.items() if v is not None}

    holds(rule, METADATA, inputs)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"gps": {"lat": float("inf")}}, "'lat' is not a finite number"),
        ({"gps": [{"n": 2**63}]}, "'n' does not fit into 64 bits"),
        ({"a": {1: 2}}, "'a' has a key of type int"),
        ({1: 2}, "the metadata has a key of type int"),
        ({"a": {b"k": 2}}, "'a' has a key of type bytes"),
        ({"a": [b"x"]}, "'a' is of type bytes"),
        ({"a": {1, 2}}, "'a' is of type set"),
        ({"a": np.float32("nan")}, "'a' is not a finite number"),
        ({"a": np.uint64(2**64 - 1)}, "'a' does not fit"),
        ({"a": np.datetime64("2020-01-01")}, "'a' is of type date"),
        ({"a": ["\ud83d"]}, "'a' is not valid Unicode"),
        ({"a": {"\ud83d": 1}}, "a key is not valid Unicode"),
        ({"a": deep(40)}, "nested too deeply"),
        ({"id": 1}, "the name 'id' is taken"),
        ({"$x": 1}, r"the name '\$x' is taken"),
    ],
)
def test_metadata_that_is_refused(metadata: dict[Any, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        plain_metadata(metadata)


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"n": np.int64(3), "x": [np.float32(0.5)], "b": np.bool_(True), "s": np.str_("a"), "t": (1, 2)}
    assert plain_metadata(given)[0] == {"n": 3, "x": [0.5], "b": True, "s": "a", "t": [1, 2]}
