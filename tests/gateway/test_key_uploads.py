"""Uploads with a key whose filter says what metadata its items have: they are the tenant's own, and no other tenant's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from milvus_coop import FakeBackend, load_bundle
from milvus_coop.serving.gateway.key_filters import fixed_metadata, named_fields
from milvus_coop.store import Store
from tests.gateway.conftest import EXAMPLES, KEY, MakeClient

DOG, CAT = ((EXAMPLES / "images" / name).read_bytes() for name in ("dog.jpg", "cat.jpg"))
TENANTS = {"a": "tenant == 'a'", "b": 'tenant == "b" and paid == true', "team": "team == 7", "reader": "$meta['secret'] > 3"}
KEYS = {name: f"a-key-for-tenant-{name}-0123456789" for name in TENANTS}
FILTERS = {KEYS[name]: filter for name, filter in TENANTS.items()} | {KEY: None}


def headers(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS.get(name, KEY)}"}


@pytest.fixture
def client(make_client: MakeClient, tmp_path: Path) -> TestClient:
    """A client of a service with one item of nobody's, the image of a cat."""
    client = make_client(
        uri=tmp_path / "new.db",
        backend=FakeBackend(load_bundle("coop-small").spec),
        api_keys=(KEY, *KEYS.values()),
        key_filters=json.dumps({hashlib.sha256(key.encode()).hexdigest(): filter for key, filter in FILTERS.items()}),
        uploads=str(tmp_path / "up"),
    )
    assert upload(client, "all", CAT).status_code == 200
    return client


def upload(client: TestClient, name: str, *contents: bytes, collection: str = "", **metadata: Any) -> Any:
    data = {"metadata": json.dumps(metadata) if metadata else "", "collection": collection}
    return client.post("/v1/items", files=[("files", ("f.jpg", c)) for c in contents], data=data, headers=headers(name))


def seen(client: TestClient, name: str) -> dict[str, dict[str, Any]]:
    """The metadata of the items that a key sees, by id."""
    ask = {"text": "a dog", "limit": 50, "output_fields": ["*"], "rerank": False}
    hits = client.post("/v1/search", json=ask, headers=headers(name)).json()["hits"]
    return {hit["id"]: hit["fields"] for hit in hits}


def test_each_tenant_finds_its_own_items(client: TestClient) -> None:
    """Also of equal images, and of the one that everybody's key uploaded: nobody learns that somebody else has an image."""
    ids = {}
    for name in "ab":
        done = upload(client, name, DOG, CAT, year=2024).json()
        assert (done["added"], done["updated"], done["failed"]) == (2, 0, 0)
        ids[name] = {item["id"] for item in done["items"]}
        assert client.get(done["items"][0]["thumbnail"], headers=headers(name)).status_code == 200
        assert client.get(done["items"][0]["thumbnail"], headers=headers("team")).status_code == 404
    assert not ids["a"] & ids["b"]
    a, b = (
        {"uploaded_as": "f.jpg", "year": 2024, "tenant": "a"},
        {"uploaded_as": "f.jpg", "year": 2024, "tenant": "b", "paid": True},
    )
    assert seen(client, "a") == dict.fromkeys(ids["a"], a)
    assert seen(client, "b") == dict.fromkeys(ids["b"], b)
    assert len(seen(client, "all")) == 5
    again = upload(client, "a", DOG, CAT).json()
    assert (again["unchanged"], {item["id"] for item in again["items"]}) == (2, ids["a"])
    changed = upload(client, "a", DOG, year=2025, tenant="a").json()
    assert changed["updated"] == 1
    assert {fields["tenant"] for fields in seen(client, "a").values()} == {"a"}
    assert seen(client, "b") == dict.fromkeys(ids["b"], b)


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        *(("a", {"tenant": value}) for value in ("b", None, ["a"], "A")),
        *(("b", {"paid": value}) for value in (1, "true", False)),
        ("a", {"team": 7}),  # another key would find it
        ("a", {"secret": 4}),
        ("team", {"team": 7.0}),
    ],
)
def test_what_filters_read_cannot_be_set(client: TestClient, tmp_path: Path, name: str, metadata: dict[str, Any]) -> None:
    answer = upload(client, name, DOG, **metadata)
    assert answer.status_code == 400
    assert f"may not set the metadata '{next(iter(metadata))}'" in answer.json()["detail"]
    assert len(seen(client, "all")) == 1
    assert len([path for path in (tmp_path / "up").rglob("*") if path.is_file()]) == 1


def test_an_item_that_is_another_tenants_now_is_not_replaced(client: TestClient, tmp_path: Path) -> None:
    (item,) = upload(client, "a", DOG).json()["items"]
    with Store(tmp_path / "new.db") as store:
        collection = store.open("images")
        row = collection.rows([item["id"]])[item["id"]]
        collection.upsert([replace(row, metadata={"tenant": "b", "paid": True})])
    assert item["id"] in seen(client, "b")
    some: list[dict[str, Any]] = [{}, {"year": 2025}]
    for metadata in some:
        done = upload(client, "a", DOG, CAT, **metadata).json()
        assert [failure["reason"] for failure in done["failures"]] == ["an item that this API key does not see has this id"]
        assert seen(client, "b")[item["id"]] == {"tenant": "b", "paid": True}
        assert item["id"] not in seen(client, "a")


def test_other_filters_only_read(client: TestClient) -> None:
    answer = upload(client, "reader", DOG)
    assert (answer.status_code, "may only read" in answer.json()["detail"]) == (403, True)


def test_a_tenant_makes_no_collection(client: TestClient, tmp_path: Path) -> None:
    answer = upload(client, "a", DOG, collection="mine")
    assert answer.status_code == 404
    with Store(tmp_path / "new.db") as store:
        assert [info.name for info in store.list()] == ["images"]


@pytest.mark.parametrize(
    ("filter", "fixed"),
    [
        ("tenant == 'a'", {"tenant": "a"}),
        (' tenant=="a b"&&year == 2020 and new == true AND n == -5 ', {"tenant": "a b", "year": 2020, "new": True, "n": -5}),
        ("tenant == 'a and b == 1'", {"tenant": "a and b == 1"}),
        *(
            (other, None)
            for other in (
                "",
                "year <= 2020",
                "tenant == 'a' or year == 1",
                "tenant == 'a' and year > 1",
                "tenant == 'a' and tenant == 'b'",
                "tenant == 'a' and",
                "tenant == 'a'and year == 1",
                "not tenant == 'a'",
                "tenant == year",
                r"tenant == 'a\'b'",
                "n == 007",
                "n == 1.5",
                "n == 9223372036854775808",
                "id == 'x'",
                "$meta['tenant'] == 'a'",
                "tenant == 'a' == true",
                "tags[0] == 'a'",
            )
        ),
    ],
)
def test_filters_that_say_what_an_upload_gets(filter: str, fixed: dict[str, Any] | None) -> None:
    assert fixed_metadata(filter) == fixed


def test_names_in_filters() -> None:
    filters = ("tenant == 'a'", '$meta["te am"] > 1 or tags[0] == 2', "")
    assert named_fields(filters) >= {"tenant", "te am", "tags"}
    assert "year" not in named_fields(filters)
