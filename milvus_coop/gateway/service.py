"""What all requests share: models, Milvus, opened collections, and the pool in which they wait and run."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from milvus_coop.backends import Backend
from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from milvus_coop.config import Settings
from milvus_coop.errors import CollectionNotFoundError, InvalidArgumentError, MilvusCoopError, StoreError
from milvus_coop.gateway.metrics import Metrics
from milvus_coop.gateway.options import GatewayOptions
from milvus_coop.gateway.tracing import Tracing
from milvus_coop.models import Models, open_models
from milvus_coop.search import CoopSearch
from milvus_coop.store import Store
from milvus_coop.store.address import parse_address
from milvus_coop.types import CollectionInfo

T = TypeVar("T")

RETRY_AFTER_S = 1
"""When a refused client may come back."""
READY_FOR_S = 2.0
"""How long an answer about readiness holds, so that nobody floods Milvus by asking."""


class BusyError(Exception):
    """All slots are taken and enough requests wait already."""


class LateError(Exception):
    """A request took longer than the service allows."""


class Service:
    """Models of one bundle, one Milvus, and a bounded pool. Safe to share between threads; `run` belongs to one event loop."""

    def __init__(
        self, settings: Settings, options: GatewayOptions, *, tracing: Tracing | None = None, backend: Backend | None = None
    ) -> None:
        """Open the models; Milvus is opened when it is first needed, so that it may come up later.

        Args:
            settings: Milvus, the bundle and what runs it.
            options: of the service itself.
            tracing: where traces go; default nowhere.
            backend: instead of what the settings name; it stays the caller's to close.

        Raises:
            BundleError, InvalidArgumentError, BackendUnavailableError: the models cannot be opened.
        """
        self.settings = settings
        self.options = options
        self.metrics = Metrics()
        self.tracing = tracing or Tracing()
        self.models: Models = open_models(settings, backend)
        self._slots = options.slots(settings.models)
        self._pool = ThreadPoolExecutor(self._slots, "milvus-coop-serve")
        self._pending = 0
        # A lock for each matter: opening may take as long as Milvus takes not to answer, and counting is done by the event loop.
        self._counting, self._opening, self._checking = threading.Lock(), threading.RLock(), threading.Lock()
        self._failed: dict[str, tuple[float, StoreError]] = {}
        self._searchers: dict[str, CoopSearch] = {}
        self._store: Store | None = None
        self._ready: tuple[float, dict[str, str]] | None = None
        self.metrics.watch_pending(lambda: self._pending)

    def warm_up(self) -> None:
        """Make ready what can be, so that the first request is not slower than the next."""
        for prepare in (self.problems, self.searcher):
            with contextlib.suppress(MilvusCoopError):  # a collection may come later, and so may Milvus
                prepare()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a blocking function in the pool.

        Raises:
            BusyError: too many wait already.
            LateError: it waited and ran for longer than the service allows.
        """
        with self._counting:
            if self._pending >= self._slots + self.options.waiting:
                self.metrics.refused.inc()
                raise BusyError
            self._pending += 1
            job = self._pool.submit(function)
        job.add_done_callback(self._done)
        answer = asyncio.wrap_future(job)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone
        try:
            return await asyncio.wait_for(asyncio.shield(answer), self.options.timeout_s)
        except (TimeoutError, asyncio.TimeoutError) as exc:
            if job.done():
                raise  # an error of the function itself
            raise LateError from exc
        finally:
            job.cancel()  # what has begun goes on, and keeps its slot until it ends; what still waits does not

    def _done(self, job: Future[T]) -> None:
        with self._counting:
            self._pending -= 1

    def searcher(self, collection: str | None = None) -> CoopSearch:
        """The search of a collection, opened on first use; None: the one that the settings name.

        Raises:
            CollectionNotFoundError, ForeignCollectionError, BundleMismatchError: the collection cannot be used.
            StoreError: Milvus cannot be reached or refuses.
        """
        self._check_database()
        name = collection or self.settings.collection
        if known := self._searchers.get(name):
            return known
        asked_s = time.monotonic()
        with self._opening:
            if name not in self._searchers:
                failed_s, error = self._failed.get(name, (0.0, None))
                if error is not None and failed_s > asked_s:  # who came first has waited for Milvus in vain
                    raise error
                try:
                    self._searchers[name] = CoopSearch(name, models=self.models.backend, settings=self.settings)
                except StoreError as exc:
                    self._failed = {name: (time.monotonic(), exc)}
                    raise
            return self._searchers[name]

    def search(self, collection: str | None, action: Callable[[CoopSearch], T]) -> T:
        """Do something with the search of a collection; one that was dropped meanwhile is opened again, if it is there again."""
        try:
            return action(self.searcher(collection))
        except CollectionNotFoundError:
            if not self.forget(collection):
                raise
            return action(self.searcher(collection))

    def forget(self, collection: str | None) -> bool:
        """Close the search of a collection; whether there was one."""
        with self._opening:
            known = self._searchers.pop(collection or self.settings.collection, None)
        if known is not None:
            known.close()
        return known is not None

    @property
    def is_local(self) -> bool:
        """Whether Milvus is Milvus Lite in this process."""
        return parse_address(self.settings.uri).folder is not None

    def store(self) -> Store:
        """The connection for what is not a search.

        Raises:
            StoreError: Milvus cannot be reached or refuses.
        """
        self._check_database()
        with self._opening:
            if self._store is None:
                self._store = Store.from_settings(self.settings, must_exist=not self.options.uploads)
            return self._store

    def _check_database(self) -> None:
        if self.options.models_only:
            raise InvalidArgumentError(
                "this service opens no database",
                expected="rerank of token strings or texts, and embeddings",
                run="no --models-only",
            )

    def collections(self) -> list[CollectionInfo]:
        """All collections of the Milvus database."""
        return self.store().list()

    def problems(self) -> dict[str, str]:
        """What keeps the service from answering, by part (`milvus`, `models`); empty when it is ready."""
        with self._checking:
            if self._ready is None or time.monotonic() - self._ready[0] > READY_FOR_S:
                self._ready = (time.monotonic(), self._check())
            return self._ready[1]

    def _check(self) -> dict[str, str]:
        found: dict[str, str] = {}
        checks: tuple[tuple[str, Callable[[], object]], ...] = (
            ("milvus", lambda: self.store().ping()),
            ("models", lambda: self.models.backend.load((TEXT_ENCODER, IMAGE_ENCODER, CROSS_ENCODER))),
        )
        for name, check in checks[1:] if self.options.models_only else checks:
            try:
                check()
            except MilvusCoopError as exc:
                found[name] = exc.given
        return found

    def close(self) -> None:
        """Wait for what runs, then free models and connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for name in list(self._searchers):
            self.forget(name)
        if self._store is not None:
            with contextlib.suppress(MilvusCoopError):
                self._store.close()
        self.models.close()
        self.tracing.close()
