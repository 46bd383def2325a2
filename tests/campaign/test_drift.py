"""Growth that is planted into a history is found, and none is found in a flat one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.campaign.history import Call, Event, Record, Sample
from benchmarks.campaign.judge import Rules, Verdict, judge

RULES = Rules(p99_growth=1.2, mb_per_1000=1.0)
SECONDS = 600
PER_S = 40
ANSWER = {"hits": [], "reranked": True, "reranked_count": 0, "candidates": 0, "reason": None}
Figure = Callable[[float], float]
"""A number for each time of a run."""


def flat(_: float) -> float:
    return 1.0


def run(*, slow: Figure = flat, leak_mb: Figure = flat, kills: tuple[float, ...] = ()) -> Record:
    """Searches of about 50 ms times `slow`, and a gateway of about 100 MB times `leak_mb` of the time since its start."""
    rng = random.Random(1)
    calls = []
    for i in range(SECONDS * PER_S):
        start = i / PER_S
        took = slow(start) * rng.uniform(0.04, 0.06)
        calls.append(Call(f"http-{i % 4}", "search", start, start + took, {"deadline_ms": None}, ANSWER))
    samples = []
    for at in range(SECONDS):
        since = max((kill for kill in kills if kill <= at), default=0.0)
        warm = 50 * (1 - 0.8 ** (at - since))  # what every process needs in its first seconds
        samples.append(Sample("gateway", 1 + int(since), at, 100 * leak_mb(at - since) + warm + rng.uniform(-3, 3)))
    return Record(calls, [], samples)


def judged(record: Record, rules: Rules = RULES) -> Verdict:
    return judge(record, [], rules)


@pytest.mark.parametrize("kills", [(), (200.0, 400.0)])
def test_a_flat_run_has_no_drift(kills: tuple[float, ...]) -> None:
    verdict = judged(run(kills=kills))
    assert not {"slower", "memory grows"} & set(verdict.by_rule)
    thirds = verdict.figures["p99 of the calm searches of the first and the last third"]
    assert thirds["enough to judge"]
    assert 0.95 < thirds["ratio"] < 1.05
    slope = verdict.figures["memory slope of the gateway"]
    assert slope["enough to judge"]
    assert abs(slope["mb_per_1000_requests"]) < 0.1


def test_searches_that_become_slower_are_found() -> None:
    verdict = judged(run(slow=lambda at: 1 + 0.5 * at / SECONDS))
    assert verdict.by_rule["slower"] == 1
    assert "memory grows" not in verdict.by_rule
    assert "slower" not in judged(run(slow=lambda at: 1 + 0.1 * at / SECONDS)).by_rule


def test_slow_searches_during_a_fault_are_no_drift() -> None:
    record = run(slow=lambda at: 20.0 if 500 <= at < 520 else 1.0)
    assert judged(record).by_rule["slower"] == 1
    record.events += [Event("Triton slowed", "fault", 499.0), Event("Triton slowed", "repair", 520.0)]
    assert "slower" not in judged(record).by_rule


@pytest.mark.parametrize("kills", [(), (200.0, 400.0)])
def test_memory_that_grows_is_found(kills: tuple[float, ...]) -> None:
    """2 MB per 1,000 requests, also where each run of the process begins anew."""
    verdict = judged(run(leak_mb=lambda age: 1 + 0.02 * age * PER_S / 1000, kills=kills))
    assert verdict.by_rule["memory grows"] == 1
    assert verdict.figures["memory slope of the gateway"]["mb_per_1000_requests"] == pytest.approx(2.0, abs=0.1)
    assert "slower" not in verdict.by_rule


def test_a_short_run_is_described_and_not_judged() -> None:
    record = run(slow=lambda at: 1 + at, leak_mb=lambda age: 1 + age)
    short = Record(record.calls[: 100 * PER_S : 10], [], record.samples[:100])
    verdict = judged(short)
    assert not {"slower", "memory grows"} & set(verdict.by_rule)
    figures: dict[str, Any] = verdict.figures
    assert not figures["p99 of the calm searches of the first and the last third"]["enough to judge"]
    assert not figures["memory slope of the gateway"]["enough to judge"]


def test_rules_without_limits_find_no_drift() -> None:
    record = run(slow=lambda at: 1 + at, leak_mb=lambda age: 1 + age)
    assert not {"slower", "memory grows"} & set(judged(record, Rules()).by_rule)
