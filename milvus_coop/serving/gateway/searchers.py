"""Opened collections: the ones used last stay open, up to a limit."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

from milvus_coop.errors import StoreError
from milvus_coop.search import CoopSearch


@dataclass(slots=True)
class _Opened:
    """An opened collection, and the number of requests that use it."""

    searcher: CoopSearch
    users: int = 0
    dropped: bool = False
    """True if it is to be closed as soon as nobody uses it."""


class Searchers:
    """Opens collections on first use and closes those that were not used for the longest time. Safe to share between threads.

    A collection that a request uses stays open until the request has finished.

    Args:
        open: opens a collection.
        limit: maximum number of collections that stay open while nobody uses them.
    """

    def __init__(self, open: Callable[[str], CoopSearch], limit: int) -> None:
        self._open = open
        self._limit = limit
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._failed: dict[str, tuple[float, StoreError]] = {}
        # Two locks, because opening a collection may take as long as the timeout of Milvus. Requests for opened ones must not
        # wait for that.
        self._opening, self._changing = threading.Lock(), threading.Lock()

    @contextmanager
    def using(self, name: str) -> Iterator[CoopSearch]:
        """The search of a collection, for the time of a `with` block.

        Raises:
            CollectionNotFoundError, ForeignCollectionError, BundleMismatchError: the collection cannot be used.
            StoreError: Milvus cannot be reached or refuses the request.
        """
        opened = self._take(name) or self._take_new(name)
        try:
            yield opened.searcher
        finally:
            with self._changing:
                opened.users -= 1
            self._close_unused(opened)

    def forget(self, searcher: CoopSearch) -> None:
        """Open the collection of this search again at its next use, unless another request has already made sure of that."""
        with self._changing:
            found = {name: opened for name, opened in self._opened.items() if opened.searcher is searcher}
            dropped = [self._drop(name) for name in found]
        self._close_unused(*dropped)

    def close(self) -> None:
        """Close all collections that nobody uses."""
        with self._changing:
            dropped = [self._drop(name) for name in list(self._opened)]
        self._close_unused(*dropped)

    def __len__(self) -> int:
        """Number of collections that are open, without those that are closed after their last use."""
        return len(self._opened)

    def _take(self, name: str) -> _Opened | None:
        with self._changing:
            opened = self._opened.get(name)
            if opened is not None:
                opened.users += 1
                self._opened.move_to_end(name)
            return opened

    def _take_new(self, name: str) -> _Opened:
        asked_s = time.monotonic()
        with self._opening:
            if opened := self._take(name):
                return opened
            failed_s, error = self._failed.get(name, (0.0, None))
            if error is not None and failed_s > asked_s:  # an earlier request has just waited for Milvus without success
                raise copy(error)
            try:
                opened = _Opened(self._open(name), users=1)
            except StoreError as exc:
                self._failed = {name: (time.monotonic(), copy(exc))}  # exc keeps the frames of this request, with its images
                raise
            with self._changing:
                self._opened[name] = opened
                dropped = [self._drop(oldest) for oldest in list(self._opened)[: -self._limit]]
        self._close_unused(*dropped)
        return opened

    def _drop(self, name: str) -> _Opened:
        opened = self._opened.pop(name)
        opened.dropped = True
        return opened

    def _close_unused(self, *some: _Opened) -> None:
        for opened in some:
            with self._changing:
                unused = opened.dropped and opened.users == 0
                opened.users -= unused  # so that it is closed only once
            if unused:
                opened.searcher.close()
