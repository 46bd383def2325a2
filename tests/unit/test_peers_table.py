"""The table of benchmarks/peers.py: times per unit, ratios of the same turn, and what did not run."""

from __future__ import annotations

from typing import Any

from benchmarks.peers_table import table

MACHINE = {"cores": 2, "cpu": "a processor", "load": [0.1], "python": "3.11"}


def result(system: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    works = {"images": {"seconds": seconds, "cpu_s": [2 * second for second in seconds]}}
    return {"part": "encoding", "system": system, "images": 4, "counts": {"images": 4}, "works": works, **more}


def cells(*results: dict[str, Any]) -> dict[str, list[str]]:
    """The cells of each row by system."""
    measured = {"machine": MACHINE, "turns": 3, "minutes": 1.0, "results": list(results)}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(measured).splitlines()[4:]]
    return {row[1]: row for row in rows}


def test_times_and_ratios() -> None:
    ours = result("milvus-coop, encoder", [0.4, 0.8, 0.4], peak_mb=1234.5, facts={"stored_bytes": 2048})
    rows = cells(ours, result("fastembed", [0.2, 0.8, 0.3]))
    assert rows["milvus-coop, encoder"][3:9] == ["100.0 ms", "10.0/s", "", "", "1,234", "2,048"]
    assert rows["fastembed"][3:7] == ["75.0 ms", "13.3/s", "0.75 (0.50 to 1.00)", "0.75 (0.50 to 1.00)"]


def test_what_did_not_run() -> None:
    rows = cells(result("milvus-coop, encoder", [1.0]), {"part": "encoding", "system": "fastembed", "not_run": "a | b"})
    assert rows["fastembed"][2] == "does not run: a / b"
