"""Each scenario of the campaign, for a short time: no promise is broken, and the faults were really made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.campaign.clock import Clock

ROOT = Path(__file__).parents[2]
BUSY_MS = 5000
"""How late an answer may be here, where other tests use the same cores. `python -m benchmarks.campaign` alone allows 250 ms."""


def campaign(out: Path, scenario: str, **options: object) -> dict[str, Any]:
    """The report of a run that broke no promise."""
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    clients = ["--sdk-clients", "2", "--http-clients", "2"]
    command = [sys.executable, "-m", "benchmarks.campaign", scenario, *clients, "--grace-ms", str(BUSY_MS), *arguments]
    done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert report["violations by rule"] == {}
    figures: dict[str, Any] = report["figures"]
    return figures


def test_ingest(tmp_path: Path) -> None:
    figures = campaign(tmp_path, "ingest", seconds=15, items=200, stores="lite")
    assert figures["rounds"] >= 2


@pytest.mark.server
@pytest.mark.triton
def test_search(tmp_path: Path) -> None:
    figures = campaign(tmp_path, "search", seconds=15, items=200, only="Triton")
    assert figures["faults made"] >= 1
    assert figures["searches, calm"]["calls"] + figures["searches, faults"]["reranked"] > 0


@pytest.mark.server
@pytest.mark.triton
@pytest.mark.skipif(not Clock.is_possible(), reason="needs a C compiler")
def test_jumps_of_the_clock(tmp_path: Path) -> None:
    figures = campaign(tmp_path, "search", seconds=8, items=200, only="clock")
    assert figures["faults made"] >= 1


@pytest.mark.server
@pytest.mark.triton
def test_network(tmp_path: Path) -> None:
    assert campaign(tmp_path, "network", seconds=15, items=200)["faults made"] >= 1


@pytest.mark.server
def test_upgrade(tmp_path: Path) -> None:
    earlier = {"old-rev": "HEAD"} if (ROOT / ".git").exists() else {}
    figures = campaign(tmp_path, "upgrade", seconds=5, items=200, **earlier)
    assert (figures["aliases switched"], figures["bundles replaced"]) == (1, 1)
    assert figures["searches, calm"]["errors"] == {}


@pytest.mark.server
def test_mixed(tmp_path: Path) -> None:
    figures = campaign(tmp_path, "mixed", seconds=20, items=200)
    assert figures["faults made"] >= 1
    assert figures["ingests"] >= 1


def test_backup(tmp_path: Path) -> None:
    figures = campaign(tmp_path, "backup", seconds=6, items=200)
    assert figures["copies with the process held"] >= 1
