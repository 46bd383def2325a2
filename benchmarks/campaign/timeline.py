"""What a reader may see at a time, given everything that was written: for each item the versions that are possible."""

from __future__ import annotations

import math
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
        self._writes: dict[str, list[Write]] = defaultdict(list)
        for call in sorted((c for c in calls if c.op == "write"), key=lambda c: c.start):
            refused = set((call.answer or {}).get("refused", ()))
            versions: dict[str, Version] = {**call.arguments.get("items", {}), **dict.fromkeys(call.arguments.get("gone", ()))}
            for id, version in versions.items():
                sure = call.error is None and id not in refused
                done, acknowledged = (call.end, call.end) if sure else (call.end + linger_s, math.inf)
                self._writes[id].append(Write(call.start, done, acknowledged, version))

    def between(self, start: float, end: float, visible_s: float = 0.0) -> Mapping[str, frozenset[Version]]:
        """The versions that a read which began at `start` and ended at `end` may have seen, by id.

        Args:
            start: the time of the call.
            end: the time of its answer.
            visible_s: how long after its acknowledgement a write may be invisible.
        """
        return {id: possible for id in self._writes if (possible := self._possible(id, start, end, visible_s)) != {None}}

    def _possible(self, id: str, start: float, end: float, visible_s: float) -> frozenset[Version]:
        begun = [write for write in self._writes[id] if write.start < end]
        seen = [write for write in begun if write.acknowledged + visible_s <= start]
        # A write that was over before another one began, which the reader sees for certain, is replaced.
        after = max((write.start for write in seen), default=-math.inf)
        left = {write.version for write in begun if write.done >= after}
        return frozenset(left if seen else left | {None})
