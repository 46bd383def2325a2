"""What all requests share: models, Milvus, opened collections, and the pools in which they wait and run."""

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
"""How long an answer about readiness holds, so that nobody floods Milvus by asking."""


class Service:
    """Models of one bundle, one Milvus, and bounded pools. Safe to share between threads; `run` belongs to one event loop."""

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
        self._pool = Pool("milvus-coop-serve", options.slots(settings.models), options.waiting, options.timeout_s)
        self._uploads = Pool("milvus-coop-upload", 1, options.waiting, options.timeout_s)
        # A lock for each matter: opening may take as long as Milvus takes not to answer.
        self._opening, self._checking = threading.RLock(), threading.Lock()
        self._failed: dict[str, tuple[float, StoreError]] = {}
        self._searchers: dict[str, CoopSearch] = {}
        self._store: Store | None = None
        self._ready: tuple[float, dict[str, str]] | None = None
        self.metrics.watch_pending(lambda: self._pool.pending + self._uploads.pending)

    def warm_up(self) -> None:
        """Make ready what can be, so that the first request is not slower than the next."""
        if "milvus" in self.problems():  # it may come up later; to wait for it twice would only delay the start
            return
        with contextlib.suppress(MilvusCoopError):  # a collection may come later, too
            self.searcher()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a blocking function in the pool.

        Raises:
            BusyError: too many wait already.
            LateError: it waited and ran for longer than the service allows.
        """
        return await self._counted(self._pool, function)

    async def run_upload(self, function: Callable[[], T]) -> T:
        """Run an upload, one after another and beside the pool: waiting for each other, uploads would keep searches from running.

        Raises:
            BusyError, LateError: as `run` does.
        """
        return await self._counted(self._uploads, function)

    async def _counted(self, pool: Pool, function: Callable[[], T]) -> T:
        try:
            return await pool.run(function)
        except BusyError:
            self.metrics.refused.inc()
            raise

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
                    self.store().describe(name)  # opening what is not there takes ten times as long
                    self._searchers[name] = CoopSearch(name, models=self.models.backend, settings=self.settings)
                except StoreError as exc:
                    self._failed = {name: (time.monotonic(), exc)}
                    raise
            return self._searchers[name]

    def search(self, collection: str | None, action: Callable[[CoopSearch], T]) -> T:
        """Do something with the search of a collection; one that was dropped meanwhile is opened again, if it is there again."""
        searcher = self.searcher(collection)
        try:
            return action(searcher)
        except CollectionNotFoundError:
            self._forget(searcher)
            return action(self.searcher(collection))

    def _forget(self, searcher: CoopSearch) -> None:
        """Close this search, unless another request has done so, and has perhaps opened the collection anew."""
        with self._opening:
            names = [name for name, known in self._searchers.items() if known is searcher]
            for name in names:
                del self._searchers[name]
        if names:
            searcher.close()

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
        """Wait for what runs, then free models and connections."""
        for pool in (self._pool, self._uploads):
            pool.close()
        for searcher in list(self._searchers.values()):
            self._forget(searcher)
        if self._store is not None:
            with contextlib.suppress(MilvusCoopError):
                self._store.close()
        self.models.close()
        self.tracing.close()
