"""Opened collections: the ones used last stay open, up to a limit, and until nobody has used them for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.search import CoopSearch

OPEN = "the collection was open"
"""The goal of a request before its search."""
OPENING = 16
"""Maximum number of collections that are being opened at the same time."""


@dataclass(eq=False, slots=True)
class _Opened:
    """A collection that is open or being opened, and the number of requests that use it or wait for it."""

    name: str
    used_s: float
    """When a request began or ended to use it."""
    opened_s: float = 0.0
    """When its opening ended."""
    job: Future[None] = field(init=False)
    searcher: CoopSearch | None = None
    """None while it is being opened."""
    users: int = 0
    dropped: bool = False
    """True if it is to be closed as soon as nobody uses it."""


class Searchers:
    """Opens collections on first use, and closes those that were not used for a long time. Safe to share between threads.

    A collection that a request uses stays open until the request has finished. Collections are opened in threads of their own, so
    that a request can leave at its deadline, and that no request waits for the opening of another collection. All requests for a
    collection wait for the same opening, and get the same error.

    Args:
        open: opens a collection.
        limit: maximum number of collections that stay open while nobody uses them.
        clock: the time in seconds.
    """

    def __init__(self, open: Callable[[str], CoopSearch], limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._open = open
        self._limit = limit
        self._clock = clock
        self._pool = ThreadPoolExecutor(OPENING, "milvus-coop-open")
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._changing = threading.Lock()

    @contextmanager
    def using(self, name: str, deadline: Deadline = NEVER) -> Iterator[CoopSearch]:
        """The search of a collection, for the time of a `with` block.

        Raises:
            CollectionNotFoundError, ForeignCollectionError, BundleMismatchError: the collection cannot be used.
            StoreError: Milvus cannot be reached or refuses the request.
            DeadlineExceededError: the deadline came before the collection was open.
        """
        opened = self._take(name)
        try:
            wait([opened.job], deadline.wait_s())
            if not opened.job.done():
                raise deadline.exceeded(OPEN)
            if (error := opened.job.exception()) is not None:
                raise copy(error)  # several requests raise it
            assert opened.searcher is not None  # noqa: S101 - the opening has ended well
            yield opened.searcher
        finally:
            self._leave(opened)

    def is_new(self, searcher: CoopSearch, age_s: float) -> bool:
        """True if this search is still in use and was opened less than that time ago."""
        with self._changing:
            return any(opened.searcher is searcher and self._clock() - opened.opened_s < age_s for opened in self._opened.values())

    def forget(self, searcher: CoopSearch) -> None:
        """Open the collection of this search again at its next use, unless another request has already made sure of that."""
        self._close(lambda opened: opened.searcher is searcher)

    def close_idle(self, idle_s: float, keep: str) -> None:
        """Close the collections that nobody has used for that time, except the one with the name `keep`."""
        before_s = self._clock() - idle_s
        self._close(lambda opened: not opened.users and opened.used_s < before_s and opened.name != keep)

    def close(self) -> None:
        """Close all collections that nobody uses, and wait for those that are being opened."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._close(lambda opened: True)

    def __len__(self) -> int:
        """Number of collections that are open, without those that are closed after their last use."""
        return len(self._ready())

    def _take(self, name: str) -> _Opened:
        with self._changing:
            opened = self._opened.get(name)
            if opened is None:
                opened = _Opened(name, self._clock())
                opened.job = self._pool.submit(self._open_new, opened)
                self._opened[name] = opened
            opened.users += 1
            opened.used_s = self._clock()
            self._opened.move_to_end(name)
            return opened

    def _leave(self, opened: _Opened) -> None:
        with self._changing:
            opened.users -= 1
            opened.used_s = self._clock()
            if not opened.users and opened.job.cancel():  # nobody waits any longer for an opening that has not begun
                self._drop(opened)
        self._close_unused(opened)

    def _open_new(self, opened: _Opened) -> None:
        try:
            searcher = self._open(opened.name)
        except BaseException:
            with self._changing:
                self._drop(opened)
            raise
        with self._changing:
            opened.searcher, opened.opened_s = searcher, self._clock()
            dropped = [self._drop(oldest) for oldest in self._ready()[: -self._limit]]
        self._close_unused(opened, *dropped)

    def _ready(self) -> list[_Opened]:
        return [opened for opened in self._opened.values() if opened.searcher is not None]

    def _close(self, chosen: Callable[[_Opened], bool]) -> None:
        with self._changing:
            dropped = [self._drop(opened) for opened in self._ready() if chosen(opened)]
        self._close_unused(*dropped)

    def _drop(self, opened: _Opened) -> _Opened:
        if self._opened.get(opened.name) is opened:
            del self._opened[opened.name]
        opened.dropped = True
        return opened

    def _close_unused(self, *some: _Opened) -> None:
        for opened in some:
            with self._changing:
                unused = opened.searcher if opened.dropped and opened.users == 0 else None
                opened.users -= unused is not None  # so that it is closed only once
            if unused is not None:
                unused.close()
