"""`benchmarks/scenes.py --quick`: it trains, exports and evaluates everything once; its figures mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "scenes.py"
SYSTEMS = {
    ("ordinary", "be"),
    ("ordinary", "ce"),
    ("ordinary", "sep-coop"),
    ("hard", "be"),
    ("hard", "sep-coop"),
    ("joint", "be"),
    ("joint", "joint-coop"),
}


def scenes(*arguments: object) -> str:
    command = [sys.executable, str(BENCHMARK), "--quick", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def found(work: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(scenes("--work", work, "--json"))
    return report


@pytest.mark.timeout(600)
def test_every_system_is_measured_in_every_pool_and_direction(found: dict[str, Any]) -> None:
    rows = {(row["model"], row["system"], row["k"], row["pool"], row["direction"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"])
    assert {key[:2] for key in rows} == SYSTEMS
    for system in SYSTEMS:
        ks = (None,) if system[1] in ("be", "ce") else (10, 20)
        for k in ks:
            for pool in (60, 120):
                for direction in ("image retrieval", "text retrieval"):
                    row = rows[(*system, k, pool, direction)]
                    assert row["ms"] > 0
                    if system[1] == "ce" and pool == 120:
                        assert row["r1"] is None  # skipped
                    else:
                        r1, low, high = row["r1"]
                        assert 0 <= low <= r1 <= high <= 100


@pytest.mark.timeout(600)
def test_the_cross_encoder_of_both_separate_bundles_is_the_same(work: Path, found: dict[str, Any]) -> None:
    lineage = [
        json.loads((work / "bundles" / name / "bundle.json").read_text())["lineage"] for name in ("sep-ordinary", "sep-hard")
    ]
    assert lineage[0]["cross_encoder"] == lineage[1]["cross_encoder"]
    assert lineage[0]["bi_encoder"] != lineage[1]["bi_encoder"]


@pytest.mark.timeout(600)
def test_a_second_call_only_evaluates(work: Path, found: dict[str, Any]) -> None:
    written = {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*") if path.is_file()}
    table = scenes("--work", work)
    assert "Joint+Coop" in table
    assert "120: text→image" in table
    assert {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*") if path.is_file()} == written
