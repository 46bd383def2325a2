"""The example of each framework runs, and what is missing is named where a framework is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from milvus_coop.errors import MilvusCoopError, MissingPackageError
from tests.integrations.kit import ROOT

SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*/*.py"))
MODULES = {"langchain": "langchain_core", "llama_index": "llama_index", "haystack": "haystack"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.parent.name))
def test_example(script: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    tables = done.stdout.split("\n\n")
    assert len(tables) == 3
    retrieved, found, reranked = (table.splitlines()[1:] for table in tables)
    assert [len(table) for table in (retrieved, found, reranked)] == [5, 5, 5]
    best = retrieved[0].split()[1]
    assert best in ("folk_band.jpg", "sailing_boat.jpg")
    assert best not in found[0]
    assert reranked == retrieved


def test_there_is_an_example_of_each() -> None:
    assert [script.parent.name for script in SCRIPTS] == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_framework_that_is_not_installed(module: str) -> None:
    code = f"import sys; sys.modules['{MODULES[module]}'] = None; import milvus_coop.serving.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    extra = module.replace("_", "-")
    assert f"MissingPackageError: {MODULES[module].split('_')[0]}" in done.stderr
    assert f"is not installed; try: pip install 'milvus-coop[{extra}]'" in done.stderr
    assert issubclass(MissingPackageError, ImportError)
    assert issubclass(MissingPackageError, MilvusCoopError)
