"""Worlds and services that tests only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.rerank.kit import KEY, Running, World, make_world, running
from tests.toy_bundle import make_bundle


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("rerank"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_bundle(folder)
    return folder


@pytest.fixture(scope="package")
def service(world: World) -> Iterator[Running]:
    """With a key, and small limits; it opens no database."""
    with running(world.bundle, api_keys=(KEY,), max_documents=50, max_body_mb=1, max_files=3) as service:
        yield service
