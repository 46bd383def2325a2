"""Every test that docs/security.md names exists, and every threat has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THREATS = (ROOT / "docs" / "security.md").read_text("utf-8").partition("## Threats\n")[2].partition("\n## ")[0]
ROWS = [line for line in THREATS.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_threats_have_tests(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 3
    assert all(cells)
    named = re.findall(r"`([^`]+)`", cells[2])
    assert named
    for path in named:
        assert path.startswith("tests/")
        found = ROOT / path
        assert any(found.glob("test_*.py")) if found.is_dir() else found.is_file(), path


def test_there_are_threats() -> None:
    assert len(ROWS) > 10
