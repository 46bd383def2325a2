"""Where blocking work waits and runs, so that no more runs at a time, and no more waits, than the service can take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

RETRY_AFTER_S = 1
"""When a refused client may come back."""


class BusyError(Exception):
    """All slots are taken and enough requests wait already."""


class LateError(Exception):
    """A request took longer than the service allows."""


class Pool:
    """Threads with a bounded queue. `run` belongs to one event loop.

    Args:
        name: of the threads.
        slots: how many functions run at a time.
        waiting: how many wait beyond that.
        timeout_s: limit of waiting and running together.
    """

    def __init__(self, name: str, slots: int, waiting: int, timeout_s: float) -> None:
        self._executor = ThreadPoolExecutor(slots, name)
        self._most = slots + waiting
        self._timeout_s = timeout_s
        self._counting = threading.Lock()
        self._pending = 0

    @property
    def pending(self) -> int:
        """How many run or wait."""
        return self._pending

    async def run(self, function: Callable[[], T]) -> T:
        """Run a blocking function.

        Raises:
            BusyError: too many wait already.
            LateError: it waited and ran for longer than is allowed.
        """
        with self._counting:
            if self._pending >= self._most:
                raise BusyError
            job = self._executor.submit(function)
            self._pending += 1
        job.add_done_callback(self._done)
        answer = asyncio.wrap_future(job)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone
        try:
            return await asyncio.wait_for(asyncio.shield(answer), self._timeout_s)
        except (TimeoutError, asyncio.TimeoutError) as exc:
            if job.done():
                raise  # an error of the function itself
            raise LateError from exc
        finally:
            job.cancel()  # what has begun goes on, and keeps its slot until it ends; what still waits does not

    def _done(self, job: Future[T]) -> None:
        with self._counting:
            self._pending -= 1

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        self._executor.shutdown(wait=True, cancel_futures=True)
