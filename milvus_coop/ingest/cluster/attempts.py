"""`Attempts`: counts how often each part of a run was begun, and so finds the item that kills its worker."""

from __future__ import annotations

CAREFUL = 3
"""The attempt from which on a worker takes the items of a part one by one."""


class Attempts:
    """The attempts at the parts of one run. It lives in a process of its own, which survives the workers."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}
        self._held: dict[int, str] = {}
        self._deadly: dict[int, list[str]] = {}

    def begin(self, part: int) -> tuple[int, list[str]]:
        """Count an attempt; return its number, and the uris of the items during which a worker died."""
        self._begun[part] = self._begun.get(part, 0) + 1
        if (uri := self._held.pop(part, None)) is not None:
            self._deadly.setdefault(part, []).append(uri)
        return self._begun[part], self._deadly.get(part, [])

    def hold(self, part: int, uri: str) -> None:
        """Remember the item that a worker begins now, alone."""
        self._held[part] = uri

    def end(self, part: int) -> None:
        """Forget a part that is finished."""
        for kept in (self._begun, self._held, self._deadly):
            kept.pop(part, None)
