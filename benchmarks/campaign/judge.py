"""Judges a history: what was lost, there twice, wrong, late, degraded without a word, or not back in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.campaign.answers import Expected, check_answer
from benchmarks.campaign.history import Call, Record
from benchmarks.campaign.timeline import Timeline, Version
from benchmarks.campaign.truth import Truth

OUTAGES = (
    "BackendUnavailableError",
    "BackendTimeoutError",
    "DeadlineExceededError",
    "StoreUnavailableError",
    "StoreTimeoutError",
    "429",
    "503",
    "504",
)
"""Errors that tell a client that a part is away, slow or busy: the types of the SDK, and the statuses of the gateway."""
DISCONNECTED = ("ConnectError", "RemoteProtocolError", "ReadError", "WriteError", "ReadTimeout", "ConnectTimeout", "WriteTimeout")
"""What a client of a gateway gets while that gateway, or the network to it, is away."""
BEYOND = "network to the gateway"
"""Part of the names of faults that keep the answers of a gateway from its clients."""
LATE_REASON = "the deadline"
"""How the reason of an answer begins that had no time to rerank everything. A busy machine is enough for that."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is allowed."""

    grace_ms: float = 250.0
    """How long after its deadline an answer may come."""
    recovery_s: float = 10.0
    """How long after a repair answers may still be degraded, or errors."""
    visible_s: float = 0.0
    """How long after its acknowledgement a search may miss a write."""
    outages: Sequence[str] = (*OUTAGES, *DISCONNECTED)
    """Types of errors that are allowed during a fault."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    rule: str
    at: float
    """When the call was made, on the clock of the history."""
    client: str
    detail: str


@dataclass(slots=True)
class Verdict:
    """All broken promises, and what the history contains."""

    violations: list[Violation] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def by_rule(self) -> dict[str, int]:
        """The number of violations of each rule."""
        return dict(Counter(violation.rule for violation in self.violations))


@dataclass(frozen=True, slots=True)
class World:
    """A state of the collection under one bundle, for the time in which answers may come from it."""

    truth: Truth
    timeline: Timeline
    since: float = -np.inf
    until: float = np.inf


def judge(record: Record, worlds: Sequence[World], rules: Rules | None = None) -> Verdict:
    """Judge a whole history.

    Args:
        record: the history.
        worlds: the possible sources of an answer: one, or several where a collection or a bundle is replaced. Every answer must be
            right in one of those whose time overlaps with the call.
        rules: what is allowed.
    """
    rules = rules or Rules()
    verdict, beyond = Verdict(), spells(record, BEYOND)
    searches = [call for call in record.calls if call.op == "search"]
    for call in record.calls:
        found: Iterable[tuple[str, str]] = ()
        if call.op == "search":
            found = [*_answer(call, worlds, rules), *([] if _is_beyond(call, beyond) else _lateness(call, rules))]
        elif call.op == "state" and call.error is None:
            found = _state(call, worlds[0])
        elif call.op in ("write", "state") and call.error is not None and call.arguments.get("must", call.op == "state"):
            found = [("failed run", f"{call.error['type']}: {call.error['message']}")]
        verdict.violations += [Violation(rule, call.start, call.client, detail) for rule, detail in found]
    verdict.violations += _outages(searches, record, rules)
    verdict.figures = figures(record, rules)
    return verdict


def _answer(call: Call, worlds: Sequence[World], rules: Rules) -> list[tuple[str, str]]:
    """The problems of one answer in the world where it has the fewest."""
    if call.error is not None:
        return []
    here = [world for world in worlds if world.since <= call.end and world.until >= call.start]
    found = [check_answer(call, _expected(call, world, rules)) for world in here]
    best = min(found, key=len, default=[("ghost", "no collection could answer at that time")])
    if best and len(worlds) > 1 and any(problem[0] in ("ghost", "wrong score") for problem in best):
        return [("mixed", f"in no one of {len(here)} worlds right: {best[0][1]}"), *best]
    return best


def _expected(call: Call, world: World, rules: Rules) -> Expected:
    possible = world.timeline.between(call.start, call.end, rules.visible_s)
    return Expected(world.truth, call.arguments["text"], possible)


def _is_beyond(call: Call, beyond: Sequence[tuple[float, float]]) -> bool:
    """True if the gateway could not be reached during this call, so that its answer could not come in time."""
    return call.client.startswith("http") and any(call.end >= start and call.start <= end for start, end in beyond)


def _lateness(call: Call, rules: Rules) -> Iterator[tuple[str, str]]:
    deadline_ms = call.arguments.get("deadline_ms")
    if deadline_ms is not None and call.took_ms > deadline_ms + rules.grace_ms:
        what = call.error["type"] if call.error else "an answer"
        yield "late", f"{what} after {call.took_ms:.0f} ms, with a deadline of {deadline_ms:g} ms"


def _state(call: Call, world: World) -> Iterator[tuple[str, str]]:
    """The problems of a reading of all rows."""
    possible = world.timeline.between(call.start, call.end)
    rows = call.answer["rows"]
    twice = [id for id, n in Counter(row["id"] for row in rows).items() if n > 1]
    if twice or call.answer["count"] != len(rows):
        yield "duplicate", f"{len(rows)} rows are listed and {call.answer['count']} counted; listed twice: {twice[:3]}"
    there = {row["id"]: row for row in rows}
    lost = [id for id, versions in possible.items() if None not in versions and id not in there]
    if lost:
        yield "lost", f"{len(lost)} acknowledged items are not there: {lost[:3]}"
    for id, row in there.items():
        yield from _row(id, row, possible.get(id, frozenset()), world.truth)


def _row(id: str, row: Mapping[str, Any], possible: frozenset[Version], truth: Truth) -> Iterator[tuple[str, str]]:
    version = truth.version_of(row["digest"])
    if not possible - {None}:
        yield "ghost", f"the row {id} should not be there"
    elif version not in possible:
        yield "lost", f"the row {id} has version {version}; possible: {sorted(map(str, possible))}"
    elif not np.allclose(row["embedding"], truth.embedding(version), atol=1e-3):  # type: ignore[arg-type]
        yield "wrong row", f"the row {id} has the digest of version {version} and another embedding"


def is_full(call: Call) -> bool:
    """True for an answer with all that was asked for, or one that only lacked time."""
    return call.error is None and (call.answer["reranked"] or str(call.answer["reason"]).startswith(LATE_REASON))


def _outages(searches: Sequence[Call], record: Record, rules: Rules) -> Iterator[Violation]:
    """Errors and degraded answers where no fault explains them, and clients that got none but such after a repair."""
    troubles = spells(record)
    for call in searches:
        if is_full(call):
            continue
        excused = any(call.end >= start and call.start <= end + rules.recovery_s for start, end in troubles)
        said = f"{call.error['type']}: {call.error['message']}" if call.error else str(call.answer["reason"])
        if not excused:
            yield Violation("not recovered" if troubles else "failed search", call.start, call.client, said)
        elif call.error is not None and call.error["type"] not in rules.outages:
            yield Violation("unexpected error", call.start, call.client, said)
    for client in sorted({call.client for call in searches}):
        own = [call for call in searches if call.client == client]
        for _, end in troubles:
            following = min((start for start, later in troubles if later > end), default=np.inf)
            after = [call for call in own if end <= call.start < following]
            if not any(is_full(call) for call in after) and any(call.start > end + rules.recovery_s for call in after):
                yield Violation("not recovered", end, client, "no full answer between this repair and the next fault")


def spells(record: Record, name: str = "") -> list[tuple[float, float]]:
    """From when to when something was broken whose name contains this. A fault without a repair lasts until the end."""
    troubles: list[tuple[float, float]] = []
    broken: dict[str, float] = {}
    for event in record.events:
        if name not in event.name:
            continue
        if event.phase == "fault":
            broken.setdefault(event.name, event.at)
        elif event.phase == "repair" and event.name in broken:
            troubles.append((broken.pop(event.name), event.at))
    return sorted([*troubles, *((start, float(np.inf)) for start in broken.values())])


def figures(record: Record, rules: Rules) -> dict[str, Any]:
    """Counts and latencies, in good times and during faults."""
    troubles = spells(record)

    def is_calm(call: Call) -> bool:
        return not any(call.end >= start and call.start <= end + rules.recovery_s for start, end in troubles)

    searches = [call for call in record.calls if call.op == "search"]
    found: dict[str, Any] = {
        "calls": dict(Counter(call.op for call in record.calls)),
        "faults": dict(Counter(event.name for event in record.events if event.phase == "fault")),
    }
    for name, some in (("calm", [c for c in searches if is_calm(c)]), ("faults", [c for c in searches if not is_calm(c)])):
        if some:
            found[f"searches, {name}"] = _described(some)
    if repaired := _recoveries(searches, troubles):
        found["seconds from a repair to the first full answer of each client"] = {
            "median": round(float(np.median(repaired)), 2),
            "maximum": round(max(repaired), 2),
        }
    return found


def _recoveries(searches: Sequence[Call], troubles: Sequence[tuple[float, float]]) -> list[float]:
    took = []
    for _, end in troubles:
        first: dict[str, float] = {}
        for call in searches:
            if call.start >= end and is_full(call):
                first.setdefault(call.client, call.end - end)
        took += list(first.values())
    return took


def _described(calls: Sequence[Call]) -> dict[str, Any]:
    took = [call.took_ms for call in calls]
    p50, p99 = np.percentile(took, (50, 99))
    answers = [call.answer for call in calls if call.error is None]
    return {
        "calls": len(calls),
        "reranked": sum(answer["reranked"] for answer in answers),
        "degraded": sum(not answer["reranked"] for answer in answers),
        "errors": dict(Counter(call.error["type"] for call in calls if call.error)),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "slowest_ms": round(max(took), 1),
    }
