"""OpenAI's embeddings, with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from milvus_coop import CoopSearch
from milvus_coop.types import StoredTokens
from tests.gateway.rerank.kit import N, Running, World, running
from tests.toy_bundle import make_bundle

PATH = "/v1/embeddings"


@pytest.fixture
def images(world: World) -> Iterator[CoopSearch]:
    with world.search() as search:
        yield search


def uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def error(answer: httpx.Response) -> str:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


def test_texts(service: Running, images: CoopSearch) -> None:
    texts = ["a red dog", "green"]
    body = service.post(PATH, {"input": texts, "model": "toy-collection", "user": "me"}).json()
    assert body["object"] == "list"
    assert body["model"] == images.encoder.spec.model_name
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert [(entry["object"], entry["index"], set(entry)) for entry in body["data"]] == [
        ("embedding", i, {"object", "index", "embedding"}) for i in range(2)
    ]
    expected = images.encoder.encode_texts(texts).embeddings
    assert np.array([entry["embedding"] for entry in body["data"]]) == pytest.approx(expected, abs=1e-6)
    one = service.post(PATH, {"input": "green", "encoding_format": "base64"}).json()
    values = np.frombuffer(base64.b64decode(one["data"][0]["embedding"]), "<f4")
    assert values == pytest.approx(expected[1], abs=1e-6)


def test_pictures_and_their_tokens(service: Running, images: CoopSearch, world: World) -> None:
    path = world.folder / "07.png"
    body = service.post(PATH, {"input": ["green", uri(path), "a dog"]}).json()
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
    assert ["image_tokens" in entry for entry in body["data"]] == [False, True, False]
    (hit,) = images.query(image=path, limit=1)
    (row,) = images.collection.rows([hit.id]).values()
    assert hit.uri == str(path)
    assert body["data"][1]["embedding"] == pytest.approx(row.embedding.tolist(), abs=1e-6)
    assert isinstance(row.content, StoredTokens)
    assert body["data"][1]["image_tokens"] == row.content.encoded
    ranked = service.post("/v2/rerank", {"query": row.content.encoded, "documents": ["a red dog", "green"]})
    assert ranked.status_code == 200


def test_a_client_without_our_sdk(service: Running, world: World, images: CoopSearch) -> None:
    """Its vector from here, its search and ranker from Milvus."""
    from pymilvus import Function, FunctionType, MilvusClient

    vector = service.post(PATH, {"input": "green"}).json()["data"][0]["embedding"]
    params = {"reranker": "model", "provider": "cohere", "queries": ["green"], "base_url": f"{service.url}/v2"}
    key = service.headers["authorization"].partition(" ")[2]
    params |= {"api_key": key, "model_name": "toy-collection"}
    ranker = Function("coop", FunctionType.RERANK, ["image_tokens"], params=params)
    client = MilvusClient(str(world.uri))
    (hits,) = client.search("images", data=[vector], limit=4, ranker=ranker)
    client.close()
    assert [hit["id"] for hit in hits] == [hit.id for hit in images.query("green", limit=4, k=N)]


def test_large_pictures_are_bounded(service: Running) -> None:
    buffer = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(buffer, "PNG")
    answer = service.post(PATH, {"input": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()})
    assert answer.status_code == 413
    assert error(answer).startswith("input[0]: ")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "invalid request: input"),
        ({"input": []}, "input has 0 texts and 0 images"),
        ({"input": [1, 2]}, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False"),
        ({"input": [None]}, "invalid request: input"),
        ({"input": ["a", " "]}, "input[1]: the text is empty"),
        ({"input": "x" * 20_001}, "input[0]: the text has 20,001 characters"),
        ({"input": ["a"] * 2049}, "input has 2,049 entries"),
        ({"input": ["data:image/png;base64,AAAA"] * 4}, "of which at most 3 are images"),
        ({"input": ["a", "data:image/png;base64,AAAA"]}, "input[1]: "),
        ({"input": "data:image/png;base64,?"}, "input[0]: the image is not base64"),
        ({"input": "data:image/png,AAAA"}, "input[0]: the image: not an image"),
        ({"input": "a", "dimensions": 3}, "dimensions is 3; expected: 16"),
        ({"input": "a", "encoding_format": "int8"}, "invalid request: encoding_format"),
    ],
)
def test_inputs_that_cannot_be(service: Running, body: dict[str, Any], said: str) -> None:
    answer = service.post(PATH, body)
    assert answer.status_code == 400
    assert said in error(answer)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_models(service: Running, images: CoopSearch) -> None:
    def get(path: str, **headers: str) -> httpx.Response:
        return httpx.get(service.url + path, headers={**service.headers, **headers}, timeout=30)

    body = get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert set(model) == {"id", "object", "created", "owned_by"}
    assert (model["id"], model["object"]) == (images.encoder.spec.model_name, "model")
    assert get(f"/v1/models/{model['id']}").json() == model
    assert get("/v1/models/toy-collection").json()["id"] == "toy-collection"
    for name in (model["id"], "toy-collection"):
        assert service.post(PATH, {"input": "a", "model": name}).status_code == 200
        assert service.post("/v2/rerank", {"query": "a", "documents": ["x"], "model": name}).status_code == 422  # not 404
    missing = get("/v1/models/gpt-4")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert get("/v1/models", authorization="Bearer wrong").json()["error"]["type"] == "authentication_error"


def test_errors_before_the_route(service: Running) -> None:
    answer = service.post(PATH, {"input": "a"}, headers={"authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    answer = service.post(PATH, {"input": "a", "model": "text-embedding-3-small"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert "there is no model 'text-embedding-3-small' here" in error(answer)


def test_bundles_that_keep_no_tokens(tmp_path: Path, world: World) -> None:
    make_bundle(tmp_path / "bundle", "nowhere")
    with running(tmp_path / "bundle") as service:
        (entry,) = service.post(PATH, {"input": uri(world.folder / "01.png")}).json()["data"]
        assert set(entry) == {"object", "index", "embedding"}
        for query in ("green", ""):
            answer = service.post("/v2/rerank", {"query": query, "documents": ["x"]})
            assert answer.status_code == 400
            assert "keeps no image tokens, and this service opens no image that a client names" in answer.json()["message"]
