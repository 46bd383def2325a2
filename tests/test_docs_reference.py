"""docs/reference.md is what `docs/reference.py` writes from the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from milvus_coop import config, errors

ROOT = Path(__file__).parent.parent


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "docs" / "reference.py", *options], capture_output=True, text=True)


def test_the_page_is_what_the_script_writes() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stderr


def test_an_old_page_is_found_and_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("old")
    assert "make docs-figures" in run("--check", "--page", page).stderr
    assert run("--page", page).returncode == 0
    text = page.read_text("utf-8")
    assert f"| `timeout_s` | `{config.PREFIX}TIMEOUT_S` | `10.0` |" in text
    assert f"`{errors.FilterError.__name__}` | `ValueError` | 400 |" in text
