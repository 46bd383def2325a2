"""Fixtures for every test."""

from __future__ import annotations

import os
import signal

import pytest

pytest_plugins = ["tests.servers.milvus", "tests.servers.triton"]


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start; they would inherit its neglect from a shell's background command."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test."""
    for name in os.environ:
        if name.startswith(("MILVUS_", "HF_", "TRITON_")):
            monkeypatch.delenv(name)
