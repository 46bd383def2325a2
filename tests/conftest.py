"""Fixtures for every test."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["tests.servers.milvus", "tests.servers.triton"]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test."""
    for name in os.environ:
        if name.startswith(("MILVUS_", "HF_", "TRITON_")):
            monkeypatch.delenv(name)
