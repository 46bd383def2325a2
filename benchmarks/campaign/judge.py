"""Judges a history: what was lost, there twice, wrong, late, degraded without a word, or not back in time."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.campaign.answers import Expected, check_answer
from benchmarks.campaign.drift import Slope, Thirds, slopes, thirds
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
REASONS, LONGEST_REASON = 12, 120
"""Number and length of the reasons in the figures."""
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
    p99_growth: float | None = None
    """The p99 of the last third may be this many times that of the first; None: any number."""
    mb_per_1000: float | None = None
    """How much the memory of a process may grow with 1,000 requests; None: any amount."""
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
    expected = [Expected(world.truth, world.timeline, rules.visible_s) for world in worlds]
    for call in record.calls:
        found: Iterable[tuple[str, str]] = ()
        if call.op == "search":
            found = [*_answer(call, worlds, expected), *([] if _is_beyond(call, beyond) else _lateness(call, rules))]
        elif call.op == "state" and call.error is None:
            found = _state(call, worlds[0])
        elif call.op in ("write", "state") and call.error is not None and call.arguments.get("must", call.op == "state"):
            found = [("failed run", f"{call.error['type']}: {call.error['message']}")]
        verdict.violations += [Violation(rule, call.start, call.client, detail) for rule, detail in found]
    verdict.violations += _outages(searches, record, rules)
    verdict.figures = figures(record, rules)
    drifts = Drifts.of(record, rules)
    verdict.violations += drifts.violations(rules)
    verdict.figures |= drifts.figures()
    return verdict


@dataclass(frozen=True, slots=True)
class Drifts:
    """How a run changed from its beginning to its end."""

    thirds: Thirds | None
    slopes: Mapping[str, Slope]

    @classmethod
    def of(cls, record: Record, rules: Rules) -> Drifts:
        searches = [call for call in record.calls if call.op == "search"]
        troubles = spells(record)
        calm = [call for call in searches if is_calm(call, troubles, rules)]
        return cls(thirds(searches, calm), slopes(record.samples, record.calls))

    def violations(self, rules: Rules) -> Iterator[Violation]:
        """What grew more than the rules allow, where the run was long enough to tell."""
        found = self.thirds
        if rules.p99_growth and found and found.counts and found.ratio > rules.p99_growth:
            yield Violation("slower", 0.0, "all", f"p99 of the last third: {found.ratio:.2f} times that of the first")
        for name, slope in self.slopes.items():
            if rules.mb_per_1000 and slope.counts and slope.mb_per_1000 > rules.mb_per_1000:
                yield Violation("memory grows", 0.0, name, f"{slope.mb_per_1000:.2f} MB per 1,000 requests")

    def figures(self) -> dict[str, Any]:
        """The same for the report."""
        found: dict[str, Any] = {}
        if self.thirds:
            found["p99 of the calm searches of the first and the last third"] = {
                "first_ms": round(self.thirds.first_ms, 1),
                "last_ms": round(self.thirds.last_ms, 1),
                "ratio": round(self.thirds.ratio, 2),
                "searches": list(self.thirds.calls),
                "enough to judge": self.thirds.counts,
            }
        for name, slope in self.slopes.items():
            found[f"memory slope of the {name}"] = {
                "mb_per_1000_requests": round(slope.mb_per_1000, 3),
                "requests": slope.requests,
                "samples": slope.samples,
                "enough to judge": slope.counts,
            }
        return found


def _answer(call: Call, worlds: Sequence[World], expected: Sequence[Expected]) -> list[tuple[str, str]]:
    """The problems of one answer in the world where it has the fewest."""
    if call.error is not None:
        return []
    here = [of for world, of in zip(worlds, expected, strict=True) if world.since <= call.end and world.until >= call.start]
    found = [check_answer(call, of.follow(call)) for of in here]
    best = min(found, key=len, default=[("ghost", "no collection could answer at that time")])
    if best and len(worlds) > 1 and any(problem[0] in ("ghost", "wrong score") for problem in best):
        return [("mixed", f"in no one of {len(here)} worlds right: {best[0][1]}"), *best]
    return best


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
    for client, own in _by_client(searches).items():
        starts = [call.start for call in own]
        for _, end in troubles:
            following = min((start for start, later in troubles if later > end), default=np.inf)
            after = own[bisect_left(starts, end) : bisect_left(starts, following)]
            if not any(is_full(call) for call in after) and any(call.start > end + rules.recovery_s for call in after):
                yield Violation("not recovered", end, client, "no full answer between this repair and the next fault")


def _by_client(calls: Sequence[Call]) -> dict[str, list[Call]]:
    """The calls of each client, by the time at which they began."""
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.client, []).append(call)
    return dict(sorted(found.items()))


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


def is_calm(call: Call, troubles: Sequence[tuple[float, float]], rules: Rules) -> bool:
    """True for a call with which no fault can have interfered."""
    return not any(call.end >= start and call.start <= end + rules.recovery_s for start, end in troubles)


def figures(record: Record, rules: Rules) -> dict[str, Any]:
    """Counts and latencies, in good times and during faults."""
    troubles = spells(record)
    kinds: dict[str, list[Call]] = {"calm": [], "faults": []}
    for call in record.calls:
        if call.op == "search":
            kinds["calm" if is_calm(call, troubles, rules) else "faults"].append(call)
    searches = [*kinds["calm"], *kinds["faults"]]
    found: dict[str, Any] = {
        "calls": dict(Counter(call.op for call in record.calls)),
        "faults": dict(Counter(event.name for event in record.events if event.phase == "fault")),
    }
    found |= {f"searches, {name}": _described(some) for name, some in kinds.items() if some}
    if degraded := Counter(_reason(call) for call in searches if call.error is None and not call.answer["reranked"]):
        found["degraded answers by reason"] = dict(degraded.most_common(REASONS))
    if repaired := _recoveries(searches, troubles):
        found["seconds from a repair to the first full answer of each client"] = {
            "median": round(float(np.median(repaired)), 2),
            "maximum": round(max(repaired), 2),
        }
    return found


def _reason(call: Call) -> str:
    """The reason of a degraded answer without its numbers."""
    return re.sub(r"[\d.,:]*\d", "#", str(call.answer["reason"]))[:LONGEST_REASON]


def _recoveries(searches: Sequence[Call], troubles: Sequence[tuple[float, float]]) -> list[float]:
    took = []
    for own in _by_client([call for call in searches if is_full(call)]).values():
        own.sort(key=lambda call: call.start)
        starts = [call.start for call in own]
        took += [own[first].end - end for _, end in troubles if (first := bisect_left(starts, end)) < len(own)]
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
