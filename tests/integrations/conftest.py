"""A real collection of the sample pictures and one of captions, for all frameworks. Nothing here reaches the network."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, load_bundle
from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.errors import BackendUnavailableError
from tests.integrations.kit import ROOT

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # it is read when haystack is imported
os.environ["LANGSMITH_TRACING"] = "false"


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Milvus Lite database with the collections `images` and `captions`, made with the shipped bundle."""
    folder = tmp_path_factory.mktemp("integrations")
    listed = folder / "list.jsonl"
    pictures = sorted((ROOT / "examples" / "images").glob("*.[jp][pn]g"))
    listed.write_text("".join(f'{{"path": "{path.as_posix()}", "name": "{path.stem}"}}\n' for path in pictures), encoding="utf-8")
    with CoopIngest("images", uri=folder / "lite.db") as ingest:
        assert ingest.run([listed]).added == len(pictures)
    with CoopIngest("captions", kind="text", uri=folder / "lite.db") as ingest:
        assert ingest.run([ROOT / "examples" / "captions.txt"]).added
    return str(folder / "lite.db")


@pytest.fixture(scope="session")
def search(uri: str) -> Iterator[CoopSearch]:
    with CoopSearch("images", uri=uri) as opened:
        yield opened


@pytest.fixture(scope="session")
def captions(uri: str) -> Iterator[CoopSearch]:
    with CoopSearch("captions", uri=uri) as opened:
        yield opened


@pytest.fixture
def degraded(uri: str) -> Iterator[CoopSearch]:
    """A search whose cross-encoder is away."""
    backend = FakeBackend(load_bundle("coop-small").spec, failures={CROSS_ENCODER: BackendUnavailableError("the server is away")})
    with CoopSearch("images", uri=uri, models=backend) as opened:
        yield opened
