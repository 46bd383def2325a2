"""A database with pictures and captions, and services on it: real bundle, real Milvus Lite."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from milvus_coop import CoopIngest
from milvus_coop.config import Settings
from milvus_coop.models.backends import Backend
from milvus_coop.serving.gateway.app import create_app
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.service import Service

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PICTURES = ("dog.jpg", "two_dogs.jpg", "cat.jpg", "apple.jpg", "coffee.jpg", "bicycle.png", "owl.jpg", "pizza.jpg")
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/search",
    "raw_path": b"/v1/search",
    "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
}
"""A search as an ASGI server announces it, for tests that are the server."""
KEY = "a-key-for-tests-0123456789"

MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos/`, and `lite.db`; see `fill`."""
    return fill(tmp_path_factory.mktemp("gateway"))


def fill(folder: Path) -> Path:
    """Fill a folder: `photos/`, and `lite.db` with the collections `images` (with metadata `year`) and `captions`."""
    (folder / "photos").mkdir()
    for name in PICTURES:
        shutil.copy(EXAMPLES / "images" / name, folder / "photos" / name)
    lines = [f'{{"path": "photos/{name}", "year": {2018 + i}}}\n' for i, name in enumerate(PICTURES)]
    (folder / "catalogue.jsonl").write_text("".join(lines), encoding="utf-8")
    settings = Settings(uri=str(folder / "lite.db"), threads=1)
    with CoopIngest("images", settings=settings) as ingest:
        assert ingest.run([folder / "catalogue.jsonl"]).added == len(PICTURES)
    with CoopIngest("captions", kind="text", settings=settings) as ingest:
        ingest.run([EXAMPLES / "captions.txt"])
    return folder


@pytest.fixture
def database(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to change."""
    shutil.copytree(filled / "lite.db", tmp_path / "lite.db")
    return tmp_path / "lite.db"


@pytest.fixture
def make_client(filled: Path) -> Iterator[MakeClient]:
    """Makes clients of services of their own, which end with the test."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> TestClient:
            return stack.enter_context(client_of(filled, **arguments))

        yield make


@pytest.fixture(scope="package")
def client(filled: Path) -> Iterator[TestClient]:
    """A client of an ordinary service, which no test changes."""
    with client_of(filled) as client:
        yield client


def client_of(
    filled: Path,
    *,
    uri: Path | str | None = None,
    backend: Backend | None = None,
    raising: bool = True,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> TestClient:
    """A client of a new service; `with` starts and ends it."""
    chosen = Settings(**{"uri": str(uri or filled / "lite.db"), "threads": 1, **(settings or {})})
    service = Service(chosen, GatewayOptions(**{"roots": (str(filled / "photos"),), **options}), backend=backend)
    app = create_app(service)
    app.state.service = service
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=raising)
