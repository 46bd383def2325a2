"""`serve --models-only`: no database is opened, so that another process may have it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.gateway.rerank.kit import World, running


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    return tmp_path / "lite.db"


def test_only_models(world: World, nowhere: Path) -> None:
    with running(world.bundle, uri=nowhere, models_only=True, uploads=str(nowhere.parent)) as service:
        assert httpx.get(f"{service.url}/readyz", timeout=60).json() == {"status": "ready", "problems": {}}
        (entry,) = service.post("/v1/embeddings", {"input": "green"}).json()["data"]
        assert len(entry["embedding"]) == 16
        assert service.post("/v2/rerank", {"query": "green", "documents": ["x"]}).status_code == 422
        for path, message in (("/collections/images/v2/rerank", "message"), ("/v2/rerank?collection=images", "message")):
            answer = service.post(path, {"query": "green", "documents": ["x"]})
            assert answer.status_code == 400
            assert answer.json()[message] == (
                "this service opens no database; expected: rerank of token strings or texts, and embeddings; try: no --models-only"
            )
        assert service.post("/v1/search", {"text": "green"}).status_code == 404
        assert httpx.get(f"{service.url}/v1/collections", timeout=60).status_code == 404
    assert not nowhere.exists()


def test_otherwise_it_says_that_there_is_none(world: World, nowhere: Path) -> None:
    with running(world.bundle, uri=nowhere) as service:
        answer = httpx.get(f"{service.url}/readyz", timeout=60)
        assert (answer.status_code, list(answer.json()["problems"])) == (503, ["milvus"])
        answer = service.post("/collections/images/rerank", {"query": "green", "texts": ["x"]})
        assert answer.status_code == 424
        assert answer.json()["error_type"] == "backend"
