"""The OpenAPI document is true: schemathesis makes requests from it, valid and broken ones, and looks at the answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.fuzz.runs import holds, lengths
from tests.gateway.conftest import client_of, fill

load_all_checks()
FAULT = "not_a_server_error"
CHECKED: Any = CHECKS.get_by_names([FAULT, "status_code_conformance", "content_type_conformance", "response_schema_conformance"])
"""What schemathesis looks at; that unknown methods give 405 and so on is in other tests."""


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


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("openapi"))


@pytest.fixture
def api(filled: Path, tmp_path: Path) -> Iterator[Any]:
    with client_of(filled, uploads=str(tmp_path / "uploads")) as client:
        yield schemathesis.openapi.from_asgi("/openapi.json", client.app, headers={"host": "localhost"})


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "broken"])
@lengths(short=4, long=150)
def test_requests_made_from_the_document(api: Any, name: str, mode: GenerationMode, inputs: int) -> None:
    method, path = name.split()
    operation = api[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or len(operation.query)):
        return  # any text is a valid part of a path, so there is nothing to break

    def rule(case: Case[Any]) -> None:
        response = case.call(headers={"host": "localhost"})
        late = response.status_code == 504 and "the deadline came before" in response.text  # as short as the caller wants it
        case.validate_response(response, checks=[check for check in CHECKED if not (late and check.__name__ == FAULT)])

    holds(rule, operation.as_strategy(generation_mode=mode), inputs)


def test_every_operation_is_tried(api: Any) -> None:
    assert {operation.ok().label for operation in api.get_all_operations()} - set(OPERATIONS) == {"GET /metrics"}
