"""`benchmarks/growth.py` on small pools in Milvus Lite: it measures, draws, keeps what it inserted, and says where it estimates."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "benchmarks" / "growth.py"
IMAGES = ("apple.jpg", "bicycle.png", "cat.jpg", "owl.jpg")
HURRY = ("--seeds", 8, "--queries", 5, "--longest", 0)


def growth(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARK), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("growth")
    (folder / "images").mkdir()
    for name in IMAGES:
        shutil.copy(ROOT / "examples" / "images" / name, folder / "images")
    return folder


def where(folder: Path) -> tuple[object, ...]:
    return ("--uri", folder / "lite.db", "--work", folder, "--images", folder / "images")


@pytest.fixture(scope="module")
def pools(folder: Path) -> list[dict[str, Any]]:
    """A hurried run on 100 and 300 items."""
    done = growth("--pools", 100, "--pools", 300, *HURRY, *where(folder), "--json")
    (folder / "growth.json").write_text(done.stdout)
    found: list[dict[str, Any]] = json.loads(done.stdout)["pools"]
    return found


def test_every_pool_is_measured(pools: list[dict[str, Any]]) -> None:
    assert [(pool["store"], pool["items"]) for pool in pools] == [("lite", 100), ("lite", 300)]
    for pool in pools:
        assert set(pool["latency"]) == {"BE", "Coop 20", "Coop 50", "Coop 200", "Coop 50, 1 %", "Coop 50, 64 at once"}
        assert set(pool["recall"]) == {"@10", "@50", "@200", "@50, 1 %"}
        for stages in pool["latency"].values():
            assert all(0 < p50 <= p99 for p50, p99 in stages.values())
            assert sum(stages[stage][0] for stage in ("encode", "retrieve", "rerank")) < 2 * stages["total"][0]


def test_exact_search_agrees_with_milvus(pools: list[dict[str, Any]]) -> None:
    """Milvus Lite has an index even of 100 items; it misses next to nothing there."""
    assert all(share > 0.97 for pool in pools for share in pool["recall"].values())


def test_what_takes_too_long_is_extrapolated(pools: list[dict[str, Any]]) -> None:
    """With no time at all, both rates are those of 64 pairs."""
    assert not any(pool[way]["measured"] for pool in pools for way in ("exhaustive", "from_images"))
    assert pools[1]["from_images"]["seconds"] > 2 * pools[1]["exhaustive"]["seconds"]


def test_an_earlier_result_is_shown_and_drawn(folder: Path, pools: list[dict[str, Any]]) -> None:
    table = growth("--read", folder / "growth.json", "--plot", folder / "growth.svg").stdout
    assert "300" in table
    assert "~" in table
    assert (folder / "growth.svg").read_text().count("<path") > 20


def test_a_second_run_inserts_nothing(folder: Path, pools: list[dict[str, Any]]) -> None:
    from milvus_coop import Store

    with Store(folder / "lite.db") as store:
        before = {info.name: info.count for info in store.list()}
    assert sorted(before.values()) == [100, 300]
    again = growth("--pools", 100, *HURRY, *where(folder))
    assert "growth_100_" in again.stderr
    assert "written" not in again.stderr
    with Store(folder / "lite.db") as store:
        assert {info.name: info.count for info in store.list()} == before
