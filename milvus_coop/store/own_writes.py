"""The writes of this process, which its reads must see."""

from __future__ import annotations

import time
from collections.abc import Callable

OWN_WRITE_S = 10.0
"""Time after a write of this process for which it reads with Milvus' level Session. Bounded may be behind by less: by 5 s."""


class OwnWrites:
    """When this process last wrote into each collection, and the level with which it reads therefore. Threads may share it.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s: dict[tuple[str, str], float] = {}

    def note(self, address: str, collection: str) -> None:
        """Note a write that has just ended."""
        self._last_s[address, collection] = self._clock()

    def level(self, address: str, collection: str) -> str:
        """The level for reads that must be fast: Session soon after a write of this process, which they must see, else Bounded.

        Both cost nothing in ordinary times. For a process that has not written, Session means no guarantee at all: while a server
        that was restarted reads its log again, searches would find nothing and report no error.
        """
        last_s = self._last_s.get((address, collection))
        return "Bounded" if last_s is None or self._clock() - last_s >= OWN_WRITE_S else "Session"


OWN_WRITES = OwnWrites()
"""Those of all connections of this process."""
