"""What a reader may see at a time, given everything that was written: for each item the versions that are possible."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.campaign.history import Call

LINGER_S = 2.0
"""A write that failed may still take effect this long after its client has gone: a server may hold its requests."""

Version = int | None
"""None stands for an item that is not there."""


@dataclass(frozen=True, slots=True)
class Write:
    """One attempt to give an item a version, or to remove it."""

    start: float
    done: float
    """When it can no longer take effect."""
    acknowledged: float
    """When the client was told of its success; infinite if never."""
    version: Version


class Timeline:
    """All writes of a history, by item.

    A write is a call with `items` (versions by id) or `gone` (ids that it removes). It is acknowledged if it has an answer, except
    for the ids that its answer lists under `refused`.
    """

    def __init__(self, calls: Iterable[Call], linger_s: float = LINGER_S) -> None:
        self.writes: dict[str, list[Write]] = defaultdict(list)
        """The writes of each item, by the time at which they began."""
        begun, acknowledgements = [], []
        for call in sorted((c for c in calls if c.op == "write"), key=lambda c: c.start):
            refused = set((call.answer or {}).get("refused", ()))
            versions: dict[str, Version] = {**call.arguments.get("items", {}), **dict.fromkeys(call.arguments.get("gone", ()))}
            for id, version in versions.items():
                sure = call.error is None and id not in refused
                done, acknowledged = (call.end, call.end) if sure else (call.end + linger_s, math.inf)
                self.writes[id].append(Write(call.start, done, acknowledged, version))
            begun.append((call.start, tuple(versions)))
            if call.error is None:
                acknowledgements.append((call.end, tuple(versions)))
        self.begun = Moments(begun)
        self.acknowledged = Moments(acknowledgements)

    def between(self, start: float, end: float, visible_s: float = 0.0) -> Mapping[str, frozenset[Version]]:
        """The versions that a read which began at `start` and ended at `end` may have seen, by id.

        Args:
            start: the time of the call.
            end: the time of its answer.
            visible_s: how long after its acknowledgement a write may be invisible.
        """
        return {id: some for id in self.writes if (some := self.possible(id, start, end, visible_s)) != {None}}

    def possible(self, id: str, start: float, end: float, visible_s: float) -> frozenset[Version]:
        """The versions of one item. They depend only on which writes had begun at `end`, and which were visible at `start`."""
        begun = [write for write in self.writes[id] if write.start < end]
        seen = [write for write in begun if write.acknowledged + visible_s <= start]
        # A write that was over before another one began, which the reader sees for certain, is replaced.
        after = max((write.start for write in seen), default=-math.inf)
        left = {write.version for write in begun if write.done >= after}
        return frozenset(left if seen else left | {None})


class Moments:
    """The times at which something became of writes, and the ids of each."""

    def __init__(self, moments: Iterable[tuple[float, tuple[str, ...]]]) -> None:
        ordered = sorted(moments)
        self._times = [at for at, _ in ordered]
        self._ids = [ids for _, ids in ordered]

    def before(self, at: float, *, inclusive: bool = False) -> int:
        """The number of moments before a time."""
        return bisect_right(self._times, at) if inclusive else bisect_left(self._times, at)

    def between(self, some: int, others: int) -> set[str]:
        """The ids of the moments by which two numbers from `before` differ."""
        return {id for ids in self._ids[min(some, others) : max(some, others)] for id in ids}


class Reader:
    """Follows the reads of a history. From one read to the next, it looks only at items whose possible versions can differ."""

    def __init__(self, timeline: Timeline, visible_s: float = 0.0) -> None:
        self._timeline = timeline
        self._visible_s = visible_s
        self._begun = self._seen = 0

    def changes(self, start: float, end: float) -> dict[str, frozenset[Version]]:
        """The versions of those items for which the last read may have seen others; at first nothing is there."""
        timeline = self._timeline
        begun, seen = timeline.begun.before(end), timeline.acknowledged.before(start - self._visible_s, inclusive=True)
        ids = timeline.begun.between(self._begun, begun) | timeline.acknowledged.between(self._seen, seen)
        self._begun, self._seen = begun, seen
        return {id: timeline.possible(id, start, end, self._visible_s) for id in ids}
