"""`POST /v1/search`: what `CoopSearch.query` gives, over HTTP."""

from __future__ import annotations

import base64
import dataclasses
import io
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, load_bundle
from milvus_coop.config import Settings
from milvus_coop.errors import BackendUnavailableError
from milvus_coop.serving.gateway.service import FOLLOW_S, REOPEN_S
from milvus_coop.store import CollectionOptions, Store
from tests.gateway.conftest import EXAMPLES, MakeClient

DOG = (EXAMPLES / "images" / "dog.jpg").read_bytes()


def hits(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in hit.items() if k != "thumbnail"} for hit in answer["hits"]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit": 3, "k": 5},
        {"filter": "year > 2020", "output_fields": ["year"]},
        {"rerank": False},
        {"score": "sum"},
        {"limit": 8, "k": 2},
        {"limit": 2, "offset": 3},
        {"min_score": 0.5},
        {"rerank": False, "min_score": -0.5, "offset": 1},
    ],
    ids=str,
)
def test_answers_are_those_of_the_sdk(client: TestClient, filled: Path, options: dict[str, Any]) -> None:
    with CoopSearch("images", settings=Settings(uri=str(filled / "lite.db"), threads=1)) as search:
        expected = search.query("a dog", **options)
    answer = client.post("/v1/search", json={"text": "a dog", **options}).json()
    assert hits(answer) == [asdict(hit) for hit in expected]
    assert (answer["reranked"], answer["reranked_count"], answer["candidates"]) == (
        expected.reranked,
        expected.reranked_count,
        expected.candidates,
    )
    assert (answer["collection"], answer["kind"], answer["query"]) == ("images", "image", {"kind": "text", "text": "a dog"})


def test_a_form_says_the_same_as_json(client: TestClient) -> None:
    fields = {"text": "a dog", "limit": "3", "filter": "year > 2018", "output_fields": "year, uri", "rerank": "false"}
    fields |= {"offset": "1", "min_score": "-0.9"}
    body = {**fields, "limit": 3, "output_fields": ["year", "uri"], "rerank": False, "offset": 1, "min_score": -0.9}
    by_form = client.post("/v1/search", files={name: (None, value) for name, value in fields.items()}).json()
    assert len(by_form["hits"]) == 3
    assert by_form["hits"] == client.post("/v1/search", json=body).json()["hits"]


def test_an_image_finds_captions_and_is_reranked(client: TestClient) -> None:
    asked = {"collection": (None, "captions"), "limit": (None, "3")}
    by_form = client.post("/v1/search", files={**asked, "image": ("dog.jpg", DOG)}).json()
    assert by_form["reranked"]
    assert "dog" in by_form["hits"][0]["text"]
    assert by_form["hits"][0]["thumbnail"] is None
    body = {"collection": "captions", "limit": 3, "image": base64.b64encode(DOG).decode()}
    assert client.post("/v1/search", json=body).json()["hits"] == by_form["hits"]


def test_a_picture_finds_pictures_in_the_order_of_the_bi_encoder(make_client: MakeClient, database: Path) -> None:
    client = make_client(uri=database)
    answer = client.post("/v1/search", files={"image": ("x", DOG)}).json()
    assert answer["hits"][0]["uri"].endswith("/dog.jpg")
    assert (answer["reranked"], answer["query"]["kind"]) == (False, "image")
    assert "both images" in answer["reason"]
    answer = client.post("/v1/search", json={"text": "a dog", "collection": "captions"}).json()
    assert (answer["reranked"], answer["query"]["kind"]) == (False, "text")
    metrics = client.get("/metrics").text
    assert 'milvus_coop_searches_total{order="bi-encoder"} 2.0' in metrics  # nothing is broken
    assert 'order="degraded"' not in metrics


def test_a_failing_cross_encoder_is_told(make_client: MakeClient, tmp_path: Path) -> None:
    spec = load_bundle("coop-small").spec
    backend = FakeBackend(spec)
    with CoopIngest("images", uri=tmp_path / "lite.db", models=backend) as ingest:
        ingest.run([EXAMPLES / "images"])
    client = make_client(uri=tmp_path / "lite.db", backend=backend)
    assert client.post("/v1/search", json={"text": "a dog"}).json()["reranked"]
    backend.failures["cross_encoder"] = BackendUnavailableError("the cross-encoder is away")
    answer = client.post("/v1/search", json={"text": "a dog"}).json()
    assert not answer["reranked"]
    assert "the cross-encoder is away" in answer["reason"]
    assert [hit["be_rank"] for hit in answer["hits"]] == list(range(1, 11))
    assert 'milvus_coop_searches_total{order="degraded"} 1.0' in client.get("/metrics").text
    backend.failures["text_encoder"] = BackendUnavailableError("the text encoder is away")
    failed = client.post("/v1/search", json={"text": "a cat"})  # the first text is remembered
    assert (failed.status_code, failed.headers["retry-after"]) == (503, "1")
    assert failed.json()["detail"] == "the text encoder is away"


def test_a_collection_that_was_dropped_and_made_again(make_client: MakeClient, database: Path) -> None:
    client = make_client(uri=database)
    settings = Settings(uri=str(database), threads=1)
    assert len(client.post("/v1/search", json={"text": "a dog"}).json()["hits"]) == 8
    with Store(database) as store:
        store.drop("images")
    gone = client.post("/v1/search", json={"text": "a dog"})
    assert (gone.status_code, "images" in gone.json()["detail"]) == (404, True)
    with CoopIngest("images", settings=settings) as ingest:
        ingest.run([EXAMPLES / "images" / "dog.jpg"])
    assert len(client.post("/v1/search", json={"text": "a dog"}).json()["hits"]) == 1


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.server)])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The address of a Milvus with the collections `released` and `planned`, and what releases one as another client does."""
    server = request.param == "server"
    uri = request.getfixturevalue("milvus_server").uri if server else str(tmp_path / "lite.db")
    backend = FakeBackend(load_bundle("coop-small").spec)
    with Store(uri) as store:
        for name in ("released", "planned") if server else ("released",):
            after = CollectionOptions(build_index="after") if name == "planned" else CollectionOptions()
            store.create(name, backend.spec, options=after)
            with CoopIngest(name, uri=uri, models=backend) as ingest:
                ingest.run([EXAMPLES / "images" / "dog.jpg"])
        yield uri, lambda name: store._connection.call("release_collection", collection=name)
        for info in store.list():
            store.drop(info.name)


def test_a_collection_that_somebody_released(
    make_client: MakeClient, released: tuple[str, Callable[[str], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded again, once for all requests; but not again and again, nor while its index waits to be built."""
    uri, release = released
    client = make_client(uri=uri, backend=FakeBackend(load_bundle("coop-small").spec), settings={"collection": "released"})
    searchers = client.app.state.service._searchers  # type: ignore[attr-defined]

    def search(name: str = "released") -> Any:
        return client.post("/v1/search", json={"text": "a dog", "collection": name})

    def later(seconds: float) -> None:
        then_s = searchers._clock() + seconds
        monkeypatch.setattr(searchers, "_clock", lambda: then_s)

    assert len(search().json()["hits"]) == 1
    later(REOPEN_S)
    release("released")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: search(), range(8)))
    assert [(answer.status_code, len(answer.json()["hits"])) for answer in found] == [(200, 1)] * 8
    release("released")
    first = searchers._opened["released"]
    soon = search()
    assert (soon.status_code, soon.headers["retry-after"]) == (503, "1")
    assert "open" not in soon.json()["run"]
    assert searchers._opened["released"] is first
    later(REOPEN_S)
    assert len(search().json()["hits"]) == 1
    assert searchers._opened["released"] is not first
    if not uri.startswith("http"):
        return
    assert len(search("planned").json()["hits"]) == 1
    later(REOPEN_S)
    release("planned")
    assert search("planned").status_code == 503


def test_a_collection_that_was_made_again_with_another_bundle(make_client: MakeClient, database: Path) -> None:
    """Its vectors have the same length, so that a search would find hits, which would mean nothing."""
    client = make_client(uri=database)
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200
    with Store(database) as store:
        (rows,) = store.open("images").all_rows()
        store.drop("images")
        store.create("images", dataclasses.replace(load_bundle("coop-small").spec, version="9")).upsert(rows)
    time.sleep(FOLLOW_S)
    answer = client.post("/v1/search", json={"text": "a dog"})
    assert (answer.status_code, "coop-small 9" in answer.json()["detail"]) == (409, True)


def bomb() -> bytes:
    """A PNG file of 60,000 x 60,000 pixels, or so it says."""
    with io.BytesIO() as file:
        Image.new("1", (1, 1)).save(file, "PNG")
        content = file.getvalue()
    header = content[12:16] + (60_000).to_bytes(4, "big") * 2 + content[24:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "neither a text nor an image"),
        ({"text": "a", "image": "aaaa"}, 400, "a text and an image"),
        ({"text": " "}, 400, "empty"),
        ({"text": "a" * 20_001}, 400, "20,001"),
        ({"text": "a", "filter": "year >"}, 400, "rejects the filter"),
        ({"text": "a", "output_fields": [""]}, 400, "output_fields"),
        ({"text": "a", "filter": "year > 99999999999999999999"}, 400, "rejects the filter"),
        ({"text": "a", "collection": "none"}, 404, "'none'"),
        ({"text": "a", "collection": "no/such"}, 400, "no/such"),
        ({"text": "a", "limit": 0}, 422, "limit"),
        ({"text": "a", "limit": 1001}, 400, "limit is 1,001"),
        ({"text": "a", "limit": 900, "offset": 101}, 400, "offset + limit is 1,001"),
        ({"text": "a", "offset": -1}, 422, "offset"),
        ({"text": "a", "min_score": 2}, 400, "min_score is 2"),
        ({"text": "a", "min_score": "much"}, 422, "min_score"),
        ({"text": "a", "k": 20_000}, 400, "k is 20,000"),
        ({"text": "a", "deadline_ms": 0}, 422, "deadline_ms"),
        ({"text": "a", "depth": 3}, 422, "depth"),
        ({"text": "a", "score": "best"}, 422, "score"),
        ({"image": "not base64!"}, 422, "image"),
        ({"image": base64.b64encode(DOG[:5000]).decode()}, 400, "the image"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, 400, "the image"),
        ({"image": base64.b64encode(bomb()).decode()}, 413, "pixels"),
    ],
)
def test_what_cannot_be_asked(client: TestClient, body: dict[str, Any], status: int, said: str) -> None:
    answer = client.post("/v1/search", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert said in problem["detail"]
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(answer.content) < 2000  # no picture comes back


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("application/json", b"{", 422),
        ("application/json", b"\xff", 422),
        ("application/json", b"[" * 100_000, 422),
        ("text/plain", b"a dog", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n", 400),
        ("", b"", 415),
    ],
)
def test_bodies_that_cannot_be_read(client: TestClient, kind: str, content: bytes, status: int) -> None:
    answer = client.post("/v1/search", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_forms_with_odd_parts(client: TestClient) -> None:
    two = client.post("/v1/search", files=[("image", ("a", DOG)), ("image", ("b", DOG))])
    assert (two.status_code, "files" in two.json()["detail"]) == (400, True)
    other = client.post("/v1/search", files={"picture": ("a", DOG)})
    assert other.json()["detail"] == "the form has a file 'picture'"
    text = client.post("/v1/search", files={"image": (None, "not a file")})
    assert text.status_code == 400


def test_collections(client: TestClient) -> None:
    captions, images = client.get("/v1/collections").json()["collections"]
    assert (captions["name"], captions["kind"], captions["searchable"], captions["default"]) == ("captions", "text", True, False)
    dim = load_bundle("coop-small").spec.dim
    assert (images["name"], images["count"], images["dim"], images["default"]) == ("images", 8, dim, True)
    assert images["bundle"].startswith("coop-small")
