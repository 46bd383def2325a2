"""The OpenAPI document is true: schemathesis makes requests from it, valid and broken ones, and looks at the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from starlette.testclient import TestClient

from milvus_coop.serving.gateway.schemas import SearchRequest
from tests.gateway.conftest import MakeClient

load_all_checks()
CHECKED: Any = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)
"""What schemathesis looks at; that unknown methods give 405 and so on is in other tests."""
EXAMPLES = 40


OPERATIONS = (
    "POST /v1/search",
    "POST /v1/items",
    "GET /v1/items/{id}/thumbnail",
    "GET /v1/collections",
    "GET /healthz",
    "GET /readyz",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/models/{model}",
    *(f"POST {below}{path}" for below in ("", "/collections/{collection}") for path in ("/v2/rerank", "/v1/rerank", "/rerank")),
)


@pytest.fixture
def api(make_client: MakeClient, tmp_path: Path) -> Any:
    client = make_client(uploads=str(tmp_path / "uploads"))
    return schemathesis.openapi.from_asgi("/openapi.json", client.app, headers={"host": "localhost"})


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "broken"])
def test_requests_made_from_the_document(api: Any, name: str, mode: GenerationMode) -> None:
    method, path = name.split()
    operation = api[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or len(operation.query) or len(operation.path_parameters)):
        return  # there is nothing to break

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def send(case: Case[Any]) -> None:
        case.call_and_validate(headers={"host": "localhost"}, checks=CHECKED)

    send()


def test_every_operation_is_tried(api: Any) -> None:
    assert {operation.ok().label for operation in api.get_all_operations()} - set(OPERATIONS) == {"GET /metrics"}


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
