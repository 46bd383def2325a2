"""The state that all requests share: the models, Milvus, opened collections, and the pools in which requests wait and run."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from milvus_coop.bundle.spec import CROSS_ENCODER, IMAGE_ENCODER, TEXT_ENCODER
from milvus_coop.config import Settings
from milvus_coop.errors import CollectionNotFoundError, InvalidArgumentError, MilvusCoopError, StoreError
from milvus_coop.models.backends import Backend
from milvus_coop.models.open import Models, open_models
from milvus_coop.search import CoopSearch
from milvus_coop.serving.gateway.logs import log
from milvus_coop.serving.gateway.metrics import Metrics
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.pool import BusyError, Pool
from milvus_coop.serving.gateway.tracing import Tracing
from milvus_coop.store import Store
from milvus_coop.store.address import parse_address
from milvus_coop.types import CollectionInfo

T = TypeVar("T")

READY_FOR_S = 2.0
"""Time for which a result about readiness is reused, so that many requests for it do not overload Milvus."""


class Service:
    """The models of one bundle, one Milvus, and bounded pools. Safe to share between threads; only one event loop may use `run`."""

    def __init__(
        self, settings: Settings, options: GatewayOptions, *, tracing: Tracing | None = None, backend: Backend | None = None
    ) -> None:
        """Open the models. Milvus is opened when it is first needed, so that it may start later than the service.

        Args:
            settings: the address of Milvus, the bundle, and the backend.
            options: the options of the service itself.
            tracing: the target of traces; default none.
            backend: the backend to use instead of the one that the settings name. The caller has to close it.

        Raises:
            BundleError, InvalidArgumentError, BackendUnavailableError: the models cannot be opened.
        """
        self.settings = settings
        self.options = options
        self.metrics = Metrics()
        self.tracing = tracing or Tracing()
        self.models: Models = open_models(settings, backend)
        self._pool = Pool("milvus-coop-serve", options.slots(settings.models), options.waiting, options.timeout_s)
        self._uploads = Pool("milvus-coop-upload", 1, options.waiting, options.timeout_s)
        # Two locks, because opening a collection may take as long as the timeout of Milvus, and a check must not wait for that.
        self._opening, self._checking = threading.RLock(), threading.Lock()
        self._failed: dict[str, tuple[float, StoreError]] = {}
        self._searchers: dict[str, CoopSearch] = {}
        self._store: Store | None = None
        self._ready: tuple[float, dict[str, str]] | None = None
        self.metrics.watch_pending(lambda: self._pool.pending + self._uploads.pending)

    def warm_up(self) -> None:
        """Load models and open the collection if possible, so that the first request is as fast as later ones."""
        if "milvus" in self.problems():  # Milvus may start later; waiting for it a second time would only delay the start
            return
        with contextlib.suppress(MilvusCoopError):  # the collection may be created later
            self.searcher()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a blocking function in the pool.

        Raises:
            BusyError: too many functions are waiting.
            LateError: waiting and running took longer than the service allows.
        """
        return await self._counted(self._pool, function)

    async def run_upload(self, function: Callable[[], T]) -> T:
        """Run an upload. Uploads run one after another and outside the pool; in it, waiting uploads would block searches.

        Raises:
            BusyError, LateError: see `run`.
        """
        return await self._counted(self._uploads, function)

    async def _counted(self, pool: Pool, function: Callable[[], T]) -> T:
        try:
            return await pool.run(function)
        except BusyError:
            self.metrics.refused.inc()
            raise

    def searcher(self, collection: str | None = None) -> CoopSearch:
        """The search of a collection, opened on first use. None means the collection that the settings name.

        Raises:
            CollectionNotFoundError, ForeignCollectionError, BundleMismatchError: the collection cannot be used.
            StoreError: Milvus cannot be reached or refuses the request.
        """
        self._check_database()
        name = collection or self.settings.collection
        if known := self._searchers.get(name):
            return known
        asked_s = time.monotonic()
        with self._opening:
            if name not in self._searchers:
                failed_s, error = self._failed.get(name, (0.0, None))
                if error is not None and failed_s > asked_s:  # an earlier request has just waited for Milvus without success
                    raise error
                try:
                    self.store().describe(name)  # opening a missing collection takes ten times as long
                    self._searchers[name] = CoopSearch(name, models=self.models.backend, settings=self.settings)
                except StoreError as exc:
                    self._failed = {name: (time.monotonic(), exc)}
                    raise
            return self._searchers[name]

    def search(self, collection: str | None, action: Callable[[CoopSearch], T]) -> T:
        """Run `action` with the search of a collection. If the collection was dropped and created again, it is opened again."""
        searcher = self.searcher(collection)
        try:
            return action(searcher)
        except CollectionNotFoundError:
            self._forget(searcher)
            return action(self.searcher(collection))

    def _forget(self, searcher: CoopSearch) -> None:
        """Close this search, unless another request has already closed it and perhaps opened the collection again."""
        with self._opening:
            names = [name for name, known in self._searchers.items() if known is searcher]
            for name in names:
                del self._searchers[name]
        if names:
            searcher.close()

    @property
    def is_local(self) -> bool:
        """True if Milvus is Milvus Lite in this process."""
        return parse_address(self.settings.uri).folder is not None

    def store(self) -> Store:
        """The connection for calls that are not searches.

        Raises:
            StoreError: Milvus cannot be reached or refuses the request.
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
        """The problem of each part (`milvus`, `models`) that is not ready; empty if the service is ready."""
        with self._checking:
            if self._ready is None or time.monotonic() - self._ready[0] > READY_FOR_S:
                before = self._ready[1] if self._ready else {}
                found = self._check()
                if found != before:
                    state = "not ready" if found else "ready"
                    log(state, level=logging.WARNING, milvus=found.get("milvus"), models=found.get("models"))
                self._ready = (time.monotonic(), found)
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
        """Wait for running requests, then free the models and connections."""
        for pool in (self._pool, self._uploads):
            pool.close()
        for searcher in list(self._searchers.values()):
            self._forget(searcher)
        if self._store is not None:
            with contextlib.suppress(MilvusCoopError):
                self._store.close()
        self.models.close()
        self.tracing.close()
