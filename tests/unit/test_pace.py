"""The pace of an ingest, and its lines of JSON, from progresses that the test chooses."""

from __future__ import annotations

from typing import Any

import pytest

from milvus_coop.cli.progress import ProgressLines
from milvus_coop.ingest import PaceMeter, Progress, StageTime
from milvus_coop.ingest.counts import Counts


def at(seconds: float, done: int, total: int | None = None, encode_s: float = 0.0, write_s: float = 0.0) -> Progress:
    stages = {"encode": StageTime(encode_s, seconds), "write": StageTime(write_s, 2 * seconds)}
    return Progress(done, done, done, 0, 0, 0, total, seconds, stages)  # type: ignore[arg-type]


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    """10 items per second for 100 s, then 2 per second: after half a minute only the second rate counts."""
    meter, paces = PaceMeter(), {}
    for tenth in range(2001):
        now = tenth / 10
        done = int(10 * now if now <= 100 else 1000 + 2 * (now - 100))
        paces[now] = meter.pace(at(now, done, 1300))
    assert paces[0.0].items_per_s == paces[0.0].overall_per_s == 0.0
    assert paces[0.0].eta_s is None
    assert paces[0.5].items_per_s == pytest.approx(10)
    assert paces[100.0].items_per_s == pytest.approx(10)
    assert paces[100.0].eta_s == pytest.approx(30)
    assert 2 < paces[115.0].items_per_s < 10
    assert paces[132.0].items_per_s == pytest.approx(2, abs=0.1)
    assert paces[200.0].overall_per_s == pytest.approx(6)
    assert paces[200.0].eta_s == pytest.approx(50, abs=2)
    assert len(meter._past) < 40


def test_few_progresses_far_apart() -> None:
    """A chunk of a worker may take minutes; the rate is then that since the progress before."""
    meter = PaceMeter()
    assert [meter.pace(at(now, done)).items_per_s for now, done in ((100, 100), (300, 500), (301, 500), (400, 500))] == [
        1,
        2,
        400 / 201,
        0,
    ]


def test_the_stage_that_limits() -> None:
    meter = PaceMeter()
    first = meter.pace(at(10, 100, encode_s=9.2, write_s=4.0))
    assert first.limit == "encode"
    assert first.busy == pytest.approx({"encode": 0.92, "write": 0.2})
    later = meter.pace(at(60, 200, encode_s=14.2, write_s=104.0))
    assert later.limit == "write"
    assert later.busy == pytest.approx({"encode": 0.1, "write": 1.0})
    assert PaceMeter().pace(Progress(0, 0, 0, 0, 0, 0, None)).limit is None


def test_counts_of_workers_add_up() -> None:
    driver = Counts()
    for encode_s, available_s in ((3.0, 4.0), (1.0, 6.0)):
        part = Counts(seen=5, added=5, started=1e9)  # the clock of another machine
        part.seconds["encode"], part.available_s["encode"] = encode_s, available_s
        driver.add(part)
    progress = driver.progress(None)
    assert progress.stages["encode"] == StageTime(4.0, 10.0)
    assert progress.done == 10
    assert 0 <= progress.seconds < 1e6
    driver.seconds["encode"] = 99.0
    assert progress.stages["encode"].seconds == 4.0, "a progress does not change"


def test_a_line_at_each_interval_and_at_the_end() -> None:
    lines: list[dict[str, Any]] = []
    output = ProgressLines(lines.append, every_s=10)
    for tenth in range(256):
        output.show(at(tenth / 10, tenth, 512))
    assert [line["done"] for line in lines] == [100, 200]
    output.end()
    output.end()
    assert [line["done"] for line in lines] == [100, 200, 255]
    assert (lines[-1]["items_per_s"], lines[-1]["eta_s"], lines[-1]["seconds"]) == (10.0, 25.7, 25.5)


def test_an_ingest_that_does_not_begin_writes_no_line() -> None:
    lines: list[dict[str, Any]] = []
    ProgressLines(lines.append, every_s=10).end()
    assert lines == []
