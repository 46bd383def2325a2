"""Threads for calls with a deadline, so that the caller can leave at the deadline, whatever the call is doing then."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from milvus_coop.deadline import Deadline

THREADS = 64
"""Maximum number of calls with a deadline that run at the same time, including those whose caller has left."""
GRACE_S = 0.1
"""Time after the deadline in which a call that notices the deadline itself can still return its own answer."""


class Workers:
    """A bounded number of threads. Safe to share between threads.

    Requests to servers end at the deadline by themselves. A model in this process, a file system and a lock of this process cannot
    be stopped; a thread that is left with them ends when they do, and counts until then. If all threads are taken, further calls
    wait for one until their deadline and start none.
    """

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(THREADS)
        self._pool = ThreadPoolExecutor(THREADS, "milvus-coop-search")

    def run(self, work: Callable[[], None], deadline: Deadline) -> bool:
        """Run `work` until it has ended, or until the deadline; False if it has not ended. An error of `work` is raised here."""
        if not self._free.acquire(timeout=deadline.wait_s() or 0.0):
            return False
        try:
            job = self._pool.submit(contextvars.copy_context().run, work)
        except RuntimeError:  # closed; the work itself says so in a better way
            self._free.release()
            work()
            return True
        job.add_done_callback(lambda _: self._free.release())
        if not wait([job], (deadline.wait_s() or 0.0) + GRACE_S).done:
            return False
        job.result()
        return True

    def close(self) -> None:
        """Let the threads end with their work."""
        self._pool.shutdown(wait=False)
