"""pymilvus asks Milvus Lite, Milvus Lite asks our service: order and scores of `CoopSearch.query`, and what can go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymilvus import Function, FunctionType, MilvusClient, MilvusException

from milvus_coop import CoopSearch, FakeBackend, SearchResult, load_bundle
from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.errors import BackendError
from milvus_coop.store import Store
from milvus_coop.store.layout import string_of
from milvus_coop.types import Row, StoredTokens
from tests.gateway.rerank.kit import CAPTIONS, KEY, N, Running, World, make_world, running
from tests.waiting import GatedBackend

SAME = 1e-6
"""Of a probability: batches of other sizes add up in another order, and Milvus keeps float32."""


@pytest.fixture
def images(world: World) -> Iterator[CoopSearch]:
    with world.search() as search:
        yield search


@pytest.fixture
def captions(world: World) -> Iterator[CoopSearch]:
    with world.search("captions") as search:
        yield search


@pytest.fixture
def client(images: CoopSearch, world: World) -> Iterator[MilvusClient]:
    """A plain client of the database that `images` holds open in this process."""
    client = MilvusClient(str(world.uri))
    yield client
    client.close()


def milvus_side(
    client: MilvusClient, search: CoopSearch, ranker: Function, text: str | None, image: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    encoder = search.encoder
    vector = (
        encoder.encode_texts([text]).embeddings[0]
        if text is not None
        else encoder.encode_images([encoder.decode(image or Path())]).embeddings[0]
    )
    (hits,) = client.search(search.info().name, data=[vector], ranker=ranker, output_fields=["uri"], **options)
    return list(hits)


def check_same(hits: list[dict[str, Any]], result: SearchResult) -> None:
    assert result.reranked
    assert [hit["id"] for hit in hits] == [hit.id for hit in result]
    assert [hit["distance"] for hit in hits] == pytest.approx([hit.ce_score for hit in result], abs=SAME)


@pytest.mark.parametrize("text", ["a red dog", "the blue cat on the beach", "green"])
def test_texts_to_images(client: MilvusClient, images: CoopSearch, service: Running, text: str) -> None:
    ranker = images.ranker(text, endpoint=service.url, api_key=KEY)
    result = images.query(text, limit=4, k=N)
    check_same(milvus_side(client, images, ranker, text, limit=4), result)
    assert [hit.be_rank for hit in result] != [1, 2, 3, 4]


def test_filter(client: MilvusClient, images: CoopSearch, service: Running) -> None:
    ranker = images.ranker("a red dog", endpoint=service.url, api_key=KEY)
    hits = milvus_side(client, images, ranker, "a red dog", limit=5, filter="year >= 2010 and year < 2030")
    check_same(hits, images.query("a red dog", limit=5, k=20, filter="year >= 2010 and year < 2030"))
    assert milvus_side(client, images, ranker, "a red dog", limit=5, filter="year > 9999") == []


def test_lite_takes_ten_times_the_limit(client: MilvusClient, images: CoopSearch, service: Running) -> None:
    """So that limit decides of k: with limit=1 a hit beyond the BE's ten best cannot come."""
    before = service.counted("rerank_documents", "cohere")
    hits = milvus_side(client, images, images.ranker("green", endpoint=service.url, api_key=KEY), "green", limit=1)
    assert service.counted("rerank_documents", "cohere") - before == 10
    check_same(hits, images.query("green", limit=1, k=10))


def test_pictures_to_texts(client: MilvusClient, captions: CoopSearch, service: Running, world: World) -> None:
    picture = world.folder / "03.png"
    ranker = captions.ranker(image=picture, endpoint=service.url, api_key=KEY)
    hits = milvus_side(client, captions, ranker, None, picture, limit=6)
    check_same(hits, captions.query(image=picture, limit=6))
    assert len(hits) == len(CAPTIONS)
    by_bytes = captions.ranker(image=picture.read_bytes(), endpoint=service.url, api_key=KEY)
    assert by_bytes.params == ranker.params


def test_no_key_is_needed_where_none_is_asked_for(client: MilvusClient, images: CoopSearch, world: World) -> None:
    with running(world.bundle) as open_service:
        ranker = images.ranker("green", endpoint=open_service.url)
        check_same(milvus_side(client, images, ranker, "green", limit=4), images.query("green", limit=4, k=N))


def failure(client: MilvusClient, images: CoopSearch, ranker: Function) -> str:
    with pytest.raises(MilvusException) as caught:
        milvus_side(client, images, ranker, "green", limit=4)
    return str(caught.value)


def with_params(ranker: Function, **params: Any) -> Function:
    changed = {name: value for name, value in {**ranker.params, **params}.items() if value is not None}
    return Function(ranker.name, FunctionType.RERANK, ranker.input_field_names, params=changed)


def test_a_wrong_key(client: MilvusClient, images: CoopSearch, service: Running) -> None:
    said = failure(client, images, images.ranker("green", endpoint=service.url, api_key="wrong"))
    assert "401" in said
    assert "the API key is wrong" in said


def test_no_service(client: MilvusClient, images: CoopSearch, service: Running) -> None:
    said = failure(client, images, images.ranker("green", endpoint="http://127.0.0.1:9"))
    assert "refused" in said


def test_a_slow_service(client: MilvusClient, images: CoopSearch, world: World) -> None:
    backend = GatedBackend(load_bundle(world.bundle).spec, CROSS_ENCODER)
    with running(world.bundle, backend=backend, timeout_s=2.0) as slow:
        try:
            said = failure(client, images, images.ranker("green", endpoint=slow.url))
            assert backend.gate.passed == 0  # nobody waited for the cross-encoder
        finally:
            backend.gate.open()
    assert "504" in said


def test_a_broken_backend(client: MilvusClient, images: CoopSearch, world: World) -> None:
    backend = FakeBackend(load_bundle(world.bundle).spec)
    backend.failures[CROSS_ENCODER] = BackendError("the graph broke")
    with running(world.bundle, backend=backend) as broken:
        assert "the graph broke" in failure(client, images, images.ranker("green", endpoint=broken.url))


def test_another_bundle(client: MilvusClient, images: CoopSearch, service: Running) -> None:
    ranker = images.ranker("green", endpoint=service.url, api_key=KEY)
    name = ranker.params["model_name"]
    assert name == f"toy-collection@{images.encoder.spec.fingerprint[:8]}"
    said = failure(client, images, with_params(ranker, model_name="toy-collection@00000000"))
    assert "404" in said
    assert name in said
    said = failure(client, images, with_params(ranker, model_name=None))
    assert "there is no model 'rerank-v3.5' here (which Milvus Lite says if no model_name is set)" in said


def test_a_wrong_field(client: MilvusClient, images: CoopSearch, service: Running) -> None:
    ranker = images.ranker("green", endpoint=service.url, api_key=KEY)
    wrong = Function(ranker.name, FunctionType.RERANK, ["uri"], params=ranker.params)
    said = failure(client, images, wrong)
    assert "422" in said
    assert "none of the 40 documents is a token string of bundle toy-collection 1" in said
    assert "image_tokens" in said


def test_damaged_rows_come_last(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    with world.search() as search, running(world.bundle) as service, Store(world.uri) as store:
        collection = store.open(search.collection.name)
        good = search.query("green", limit=N, k=N)
        rows = search.collection.rows([hit.id for hit in good[:4]])
        damages = ("", "no base64 at all", *(string_of(rows[good[i].id].content)[:-8] for i in (2, 3)))
        for hit, damaged in zip(good[:4], damages, strict=True):
            row: Row = rows[hit.id]
            collection.upsert([replace(row, content=StoredTokens(damaged))])
        collection.flush()
        client = MilvusClient(str(world.uri))
        hits = milvus_side(client, search, search.ranker("green", endpoint=service.url), "green", limit=N)
        client.close()
        result = search.query("green", limit=N, k=N)
        assert [hit["id"] for hit in hits[:-4]] == [hit.id for hit in good[4:]] == [hit.id for hit in result[: N - 4]]
        assert {hit["id"] for hit in hits[-4:]} == {hit.id for hit in good[:4]}
        assert [hit["distance"] for hit in hits[-4:]] == [0.0] * 4
        assert (result.reranked, result.reranked_count) == (False, N - 4)
        assert service.counted("rerank_unreadable", "cohere") == 4


def test_tokens_in_files(tmp_path: Path) -> None:
    """The rows hold keys of token files: the service reads them through the collection, which it opens in this process."""
    world = make_world(tmp_path, "store")
    with world.search() as search, running(world.bundle, uri=world.uri) as service:
        ranker = search.ranker("green", endpoint=service.url)
        assert ranker.params["base_url"] == f"{service.url}/collections/images/v2"
        client = MilvusClient(str(world.uri))
        check_same(milvus_side(client, search, ranker, "green", limit=4), search.query("green", limit=4, k=N))
        at_root = with_params(ranker, base_url=f"{service.url}/v2")
        assert "none of the 40 documents is a token string" in failure(client, search, at_root)
        client.close()
        with world.search("captions") as captions:
            picture = world.folder / "05.png"
            client = MilvusClient(str(world.uri))
            ranker = captions.ranker(image=picture, endpoint=service.url)
            check_same(milvus_side(client, captions, ranker, None, picture, limit=6), captions.query(image=picture, limit=6))
            client.close()
        secret = world.folder / "secret"
        secret.write_bytes(b"x" * search.encoder.spec.tokens.n_bytes)
        for odd in ("../secret", str(secret), "../../secret", "%2e%2e/secret"):
            answer = service.post("/collections/images/v2/rerank", {"query": "green", "documents": [odd]})
            assert answer.status_code == 422
            assert "is the key of a token file of 'images'" in answer.json()["message"]
        for name in ("..%2f..%2fsecret", "none", "a%00b"):
            answer = service.post(f"/collections/{name}/v2/rerank", {"query": "green", "documents": ["x"]})
            assert answer.status_code in (400, 404)
