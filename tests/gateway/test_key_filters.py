"""A key with a filter: on no route it reads an item that its filter leaves out, whatever else the request says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.gateway.options import GatewayOptions
from tests.gateway.conftest import KEY, MakeClient

TENANT = "a-key-for-a-tenant-0123456789"
FIXED = "year <= 2020"
ALL = {"authorization": f"Bearer {KEY}"}
SOME = {"authorization": f"Bearer {TENANT}"}


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


FILTERS = json.dumps({hashed(TENANT): FIXED, hashed(KEY): None})


@pytest.fixture
def client(make_client: MakeClient, tmp_path: Path) -> TestClient:
    return make_client(api_keys=(KEY, TENANT), key_filters=FILTERS, uploads=str(tmp_path / "up"))


@pytest.mark.parametrize(
    ("filter", "status"),
    [
        *(
            (wide, 200)
            for wide in ("", " ", "year > 0", "year > 2019 or year > 0", "1 == 1", "not (year in [2018, 2019] and id == '')")
        ),
        *((odd, 400) for odd in ("year > 0) or (year > 0", "(year > 0", "year > 0]", "'", "year > 0 // )", "{x}", "year >", "\0")),
    ],
)
def test_searches(client: TestClient, filter: str, status: int) -> None:
    ask = {"text": "a dog", "limit": 50, "filter": filter, "output_fields": ["*"]}
    as_form = {"text": "a dog", "limit": "50", "filter": filter, "output_fields": "*"}
    image = Path("examples/images/dog.jpg").read_bytes()
    for answer in (
        client.post("/v1/search", json=ask, headers=SOME),
        client.post("/v1/search", data=as_form, files={"image": ("", b"")}, headers=SOME),
        client.post("/v1/search", json=ask | {"rerank": False, "k": 1}, headers=SOME),
    ):
        assert answer.status_code == status, answer.text
        if status == 200:
            assert {hit["fields"]["year"] for hit in answer.json()["hits"]} == {2018, 2019, 2020}
        assert FIXED not in answer.text
    by_image = client.post(
        "/v1/search", data=as_form | {"text": "", "collection": "captions"}, files={"image": image}, headers=SOME
    )
    assert by_image.status_code == status
    assert status == 400 or by_image.json()["hits"] == []  # captions have no year
    everything = client.post("/v1/search", json={"text": "a dog", "limit": 50, "output_fields": ["year"]}, headers=ALL)
    assert len(everything.json()["hits"]) == 8


def test_narrower_searches(client: TestClient) -> None:
    ask = {"text": "a dog", "filter": "year > 2019", "output_fields": ["year"]}
    answer = client.post("/v1/search", json=ask, headers=SOME)
    assert [hit["fields"]["year"] for hit in answer.json()["hits"]] == [2020]


def test_thumbnails(client: TestClient) -> None:
    hits = client.post("/v1/search", json={"text": "a dog", "limit": 50, "output_fields": ["year"]}, headers=ALL).json()["hits"]
    for hit in hits:
        assert client.get(hit["thumbnail"], headers=ALL).status_code == 200
        answer = client.get(hit["thumbnail"], headers=SOME)
        assert answer.status_code == (200 if hit["fields"]["year"] <= 2020 else 404)
        assert answer.status_code == 404 or answer.headers["vary"] == "Authorization"


def test_collections(client: TestClient) -> None:
    """A collection without items for the key is not listed."""
    counts = {c["name"]: c["count"] for c in client.get("/v1/collections", headers=ALL).json()["collections"]}
    assert counts["images"] == 8
    assert counts["captions"] > 0
    assert [(c["name"], c["count"]) for c in client.get("/v1/collections", headers=SOME).json()["collections"]] == [("images", 3)]


def test_uploads_are_refused(client: TestClient) -> None:
    """They would change the metadata of other keys' items, and tell that an image is there already."""
    image = Path("examples/images/cat.jpg").read_bytes()
    answer = client.post("/v1/items", files={"files": image}, data={"metadata": '{"year": 2019}'}, headers=SOME)
    assert answer.status_code == 403
    assert "filter" in answer.json()["detail"]


def test_routes_without_rows(client: TestClient) -> None:
    assert client.post("/v1/embeddings", json={"input": "a dog"}, headers=SOME).status_code == 200
    assert client.get("/v1/models", headers=SOME).status_code == 200


def test_files_with_filters(tmp_path: Path) -> None:
    (tmp_path / "filters.json").write_text(FILTERS)
    options = GatewayOptions(api_keys=(KEY, TENANT), key_filters=str(tmp_path / "filters.json"))
    options.check()
    assert options.filters() == {TENANT: FIXED, KEY: ""}
    assert FIXED not in repr(options)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no/such/file", "cannot be read"),
        ("{", "cannot be read"),
        ('{"a": "b"}', "no API key with the hash"),
        (json.dumps({hashed(TENANT): FIXED}), f"{hashed(KEY)[:12]}... has no entry"),
        (json.dumps({hashed(TENANT): "", hashed(KEY): None}), "is ''"),
        (json.dumps({hashed(TENANT): 1, hashed(KEY): None}), "is 1"),
        (json.dumps({hashed(TENANT): "a) or (b", hashed(KEY): None}), "without its partner"),
        (f'{{"{hashed(KEY)}": null, "{hashed(KEY)}": "a == 1"}}', "twice"),
    ],
)
def test_wrong_filters(given: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        GatewayOptions(api_keys=(KEY, TENANT), key_filters=given).check()
    assert said in str(caught.value)
    assert KEY not in str(caught.value)
