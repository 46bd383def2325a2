"""A pool of threads for blocking work. It limits the number of functions that run, and the number that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from milvus_coop.deadline import NEVER, Deadline

T = TypeVar("T")

RETRY_AFTER_S = 1
"""Time after which a refused client may try again."""


GRACE_S = 0.15
"""Time after the deadline in which a function that notices the deadline itself can still return its own answer."""


class BusyError(Exception):
    """All slots are in use, and the queue is full."""


class LateError(Exception):
    """A request took longer than the service allows."""


class Pool:
    """Threads with a bounded queue. `run` must always be called from the same event loop.

    Args:
        name: name of the threads.
        slots: maximum number of functions that run at the same time.
        waiting: maximum number of functions that wait.
        timeout_s: time limit of waiting and running together.
    """

    def __init__(self, name: str, slots: int, waiting: int, timeout_s: float) -> None:
        self._executor = ThreadPoolExecutor(slots, name)
        self._maximum = slots + waiting
        self._timeout_s = timeout_s
        self._counting = threading.Lock()
        self._pending = 0

    @property
    def pending(self) -> int:
        """Number of functions that run or wait."""
        return self._pending

    async def run(self, function: Callable[[], T], deadline: Deadline = NEVER) -> T:
        """Run a blocking function.

        Raises:
            BusyError: too many functions are waiting.
            LateError: waiting and running took longer than the time limit.
            DeadlineExceededError: they took until the deadline.
        """
        with self._counting:
            if self._pending >= self._maximum:
                raise BusyError
            job = self._executor.submit(function)
            self._pending += 1
        job.add_done_callback(self._done)
        answer = asyncio.wrap_future(job)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be gone
        try:
            return await asyncio.wait_for(asyncio.shield(answer), min(self._timeout_s, deadline.remaining() + GRACE_S))
        except (TimeoutError, asyncio.TimeoutError) as exc:
            if job.done() and not job.cancelled():  # it ended before the busy loop noticed
                return job.result()
            if deadline.remaining() <= 0:
                raise deadline.exceeded("the request was answered") from exc
            raise LateError from exc
        finally:
            job.cancel()  # this drops a waiting function; a running one continues and keeps its slot until it ends

    def _done(self, job: Future[T]) -> None:
        with self._counting:
            self._pending -= 1

    def close(self) -> None:
        """Drop waiting functions, and wait for running ones."""
        self._executor.shutdown(wait=True, cancel_futures=True)
