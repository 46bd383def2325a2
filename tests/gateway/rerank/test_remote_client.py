"""Our client of rerank servers, and our own service, which speaks four of the protocols, give the scores of the bundle.

The service reads image tokens and opens no images. So a collection of texts, which are token strings, stands for one of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milvus_coop import CoopIngest, CoopSearch
from milvus_coop.ingest import Item
from milvus_coop.types import StoredTokens
from tests.gateway.conftest import MakeClient
from tests.gateway.rerank.kit import KEY, N, World, make_world, running
from tests.servers.reranker import running as other_server

QUERY = "a red dog"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose collection `tokens` has the token strings of the images as texts."""
    world = make_world(tmp_path_factory.mktemp("twin"))
    with CoopSearch("images", uri=world.uri, bundle=world.bundle) as search:
        rows = [row for page in search.collection.all_rows() for row in page]
    items = [Item(uri=row.uri, text=row.content.encoded) for row in rows if isinstance(row.content, StoredTokens)]
    with CoopIngest("tokens", kind="text", uri=world.uri, bundle=world.bundle) as ingest:
        assert ingest.ingest_items(items).added == N
    return world


@pytest.fixture(scope="module")
def service(twin: World) -> Iterator[str]:
    with running(twin.bundle, api_keys=(KEY,)) as service:
        yield service.url.partition("://")[2]


def scores(world: World, collection: str, **settings: str) -> dict[str, float]:
    """The match probability of each item by uri."""
    with CoopSearch(collection, uri=world.uri, bundle=world.bundle, **settings) as search:  # type: ignore[arg-type]
        result = search.query(QUERY, limit=N)
    assert result.reranked, result.reason
    assert [hit.score for hit in result] == sorted((hit.score for hit in result), reverse=True)
    return {hit.uri: hit.score for hit in result}


@pytest.mark.parametrize("protocol", ["cohere", "tei", "jina", "vllm"])
def test_the_scores_are_those_of_the_bundle(twin: World, service: str, protocol: str) -> None:
    remote = scores(twin, "tokens", reranker=f"{protocol}+http://{service}?documents=7", reranker_key=KEY)
    local = scores(twin, "images")
    assert len(remote) > N // 2  # an approximate index finds few of many texts that are alike
    assert len(set(remote.values())) > N // 2
    assert remote == pytest.approx({uri: local[uri] for uri in remote}, abs=1e-6)


def test_the_service_refuses_another_key_and_another_model(twin: World, service: str) -> None:
    for settings, reason in (
        ({"reranker_key": "another-key-of-somebody"}, "answers 401; expected: a key: MILVUS_COOP_RERANKER_KEY"),
        ({"reranker_key": KEY, "reranker_model": "other"}, "answers 404"),
    ):
        with CoopSearch("tokens", uri=twin.uri, bundle=twin.bundle, reranker=f"cohere+http://{service}", **settings) as search:  # type: ignore[arg-type]
            result = search.query(QUERY)
        assert not result.reranked
        assert reason in str(result.reason)


def test_the_service_itself_uses_a_rerank_server(make_client: MakeClient, filled: Path) -> None:
    """Its settings name the server, and no caller can name another one. Callers with a key do not see its address."""
    with other_server() as server:
        settings = {"reranker": server.address(), "reranker_roots": (str(filled / "photos"),)}
        client = make_client(settings=settings, api_keys=(KEY,))
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"text": QUERY, "limit": 3, "reranker": "vllm+http://192.0.2.1"}
        assert client.post("/v1/search", json=body, headers=headers).status_code in (400, 422)
        del body["reranker"]
        answer = client.post("/v1/search", json=body, headers=headers).json()
        assert answer["reranked"]
        assert len(server.asked) == 1
    answer = client.post("/v1/search", json=body, headers=headers).json()
    assert not answer["reranked"]
    assert "the reranker failed: " in answer["reason"]
    assert str(server.server_port) not in answer["reason"]
