"""The entrypoint of the GPU image without the GPU: the export is real; building plans and tritonserver are stubs that tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from milvus_coop.bundle.spec import GRAPHS
from milvus_coop.serving.plans.repository import read_repository
from tests.deploy.compose import DEPLOY

SCRIPT = DEPLOY / "docker" / "triton-entrypoint.sh"
PYTHON = f"""\
#!/bin/sh
case "$*" in
*build-plans*) echo "build-plans $5"; exit "$BUILDER_CODE";;
*) exec {sys.executable} "$@";;
esac
"""
TRITONSERVER = '#!/bin/sh\necho "tritonserver $*"\n'


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name, text in {"python3": PYTHON, "tritonserver": TRITONSERVER}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def start(stubs: Path, models: Path, *, builder_code: int = 0) -> subprocess.CompletedProcess[str]:
    path = f"{stubs}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MODEL_REPOSITORY": str(models), "BUILDER_CODE": str(builder_code)}
    return subprocess.run([SCRIPT, "--log-verbose=1"], env=env, cwd=stubs, capture_output=True, text=True)


def test_it_exports_builds_and_serves_and_keeps_plans(stubs: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()  # a volume is there and empty
    done = start(stubs, models)
    assert done.returncode == 0, done.stderr
    building, serving = done.stdout.splitlines()
    assert building == f"build-plans {models}"
    assert serving.startswith(f"tritonserver --model-repository={models} ")
    assert serving.endswith(" --log-verbose=1")

    repository = read_repository(models)  # what `build-plans` reads
    sources = {graph.name: repository.source(graph).read_bytes() for graph in repository.spec.graphs}
    assert set(sources) == set(GRAPHS)
    for graph in repository.spec.graphs:
        repository.plan(graph).write_bytes(b"a plan")
    assert start(stubs, models).returncode == 0
    assert all(repository.plan(graph).read_bytes() == b"a plan" for graph in repository.spec.graphs)
    assert {graph.name: repository.source(graph).read_bytes() for graph in repository.spec.graphs} == sources  # so none is due


def test_without_plans_nothing_is_served(stubs: Path, tmp_path: Path) -> None:
    done = start(stubs, tmp_path / "models", builder_code=1)
    assert done.returncode == 1
    assert "tritonserver" not in done.stdout
