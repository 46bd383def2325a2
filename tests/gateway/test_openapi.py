"""The OpenAPI document describes every route, and its examples work; `tests/fuzz` makes requests from it."""

from __future__ import annotations

import json

from starlette.testclient import TestClient

from milvus_coop.serving.gateway.schemas import SearchRequest


def test_the_document(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["tags"], path
    examples = document["paths"]["/v1/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"]
    for example in examples:
        SearchRequest.model_validate(example)
        assert client.post("/v1/search", json=example).status_code == 200
    assert "cdn" not in json.dumps(document)
    assert client.get("/docs").status_code == 404
