"""`Deadline`: the moment by which a call has to be done. One object travels down to every request that the call makes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from milvus_coop.errors import BackendTimeoutError, DeadlineExceededError, StoreTimeoutError

NEAR_S = 0.01
"""A request whose time limit was what remained may be given up a moment before the deadline."""


class Deadline:
    """A moment after which the answer of a call is of no use. `NEVER` is the deadline of calls that have none.

    Args:
        limit_s: seconds from now.
    """

    __slots__ = ("_at_s",)

    def __init__(self, limit_s: float) -> None:
        self._at_s = time.monotonic() + limit_s

    @classmethod
    def after_ms(cls, limit_ms: float | None) -> Deadline:
        """The deadline of a call with that limit in milliseconds; None means no limit."""
        return NEVER if limit_ms is None else cls(limit_ms / 1000)

    @property
    def is_never(self) -> bool:
        """True if the call may take any time."""
        return self._at_s == math.inf

    def remaining(self) -> float:
        """Seconds that remain: less than 0 after the deadline, and infinite if there is none."""
        return self._at_s - time.monotonic()

    def within(self, timeout_s: float) -> float:
        """The time limit of a request that may take `timeout_s` by itself, in seconds; 0 if no time remains."""
        return max(0.0, min(timeout_s, self.remaining()))

    def wait_s(self) -> float | None:
        """The time limit of a wait, in seconds; None if there is no deadline."""
        return None if self.is_never else max(0.0, self.remaining())

    def exceeded(self, goal: str) -> DeadlineExceededError:
        """The error of a call whose deadline came before that goal, such as `the query was encoded`."""
        return DeadlineExceededError(
            f"the deadline came before {goal}", expected="a longer deadline, or models and a Milvus that answer sooner"
        )

    def check(self, goal: str) -> None:
        """Stop if no time remains to reach a goal.

        Raises:
            DeadlineExceededError: no time remains.
        """
        if self.remaining() <= 0:
            raise self.exceeded(goal)

    @contextmanager
    def toward(self, goal: str) -> Iterator[None]:
        """A part of the call, which ends with a goal. A request that the deadline ended makes this deadline's error of its own.

        Raises:
            DeadlineExceededError: no time remains, or the deadline ended a request.
        """
        self.check(goal)
        try:
            yield
        except (BackendTimeoutError, StoreTimeoutError) as exc:
            if self.remaining() > NEAR_S:
                raise
            raise self.exceeded(goal) from exc


NEVER = Deadline(math.inf)
"""No deadline."""
