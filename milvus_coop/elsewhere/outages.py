"""Outages: errors that may pass by themselves, and calls that are repeated until they have."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 300.0
"""Time for which a call is repeated."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
_PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def may_pass(error: BaseException) -> bool:
    """True for an OSError of a lost connection, a timeout, or a disk or server that does not answer now."""
    return isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno in _PASSING)


def patiently(
    call: Callable[[], Result],
    passes: Callable[[Exception], bool] = may_pass,
    *,
    again: Callable[[Result], bool] = lambda _: False,
    patience_s: float = PATIENCE_S,
) -> Result:
    """The result of a call, which is repeated with growing pauses while it fails.

    Args:
        call: the call; it can be repeated at any time.
        passes: returns True for an error that may pass. All others are raised at once.
        again: returns True for a result that may be better next time.
        patience_s: time after which the last error is raised, or the last result returned.
    """
    end, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            result = call()
            if not again(result) or time.monotonic() + pause > end:
                return result
        except Exception as exc:
            if not passes(exc) or time.monotonic() + pause > end:
                raise
            _log.warning("%s; the next attempt is in %.0f s", exc, pause)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
