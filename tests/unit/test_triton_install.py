"""The installation of Triton's wheel, without downloading it."""

from __future__ import annotations

import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from milvus_coop.serving.triton.install import find_triton
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the wheel is for Linux")


def test_of_two_first_starts_one_installs_and_the_other_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []

    def create(folder: Path, *, with_pip: bool) -> None:
        begun.append(folder)
        try:
            wait_until(lambda: len(begun) == 2, 1.0)  # without the lock the other start is here within a moment
        except AssertionError:
            return

    def install(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        triton = Path(command[0]).parent.parent / "lib" / python / "site-packages" / "pytriton" / "tritonserver"
        stub = triton / "python_backend_stubs" / python.removeprefix("python") / "triton_python_backend_stub"
        for path in (stub, triton / "backends" / "python" / "backend.so"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("MILVUS_COOP_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(subprocess, "run", install)
    with ThreadPoolExecutor(2) as pool:
        first, second = (future.result() for future in [pool.submit(find_triton) for _ in range(2)])
    assert len(begun) == 1
    assert first == second
