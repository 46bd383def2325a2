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
from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.elsewhere.roots import SHOWN_AT_ONCE
from milvus_coop.errors import CollectionNotFoundError, CollectionNotLoadedError, InvalidArgumentError, MilvusCoopError
from milvus_coop.models.backends import Backend
from milvus_coop.models.open import Models, open_models
from milvus_coop.search import CoopSearch
from milvus_coop.search.remote.address import rerank_server_of
from milvus_coop.serving.gateway.addresses import hider
from milvus_coop.serving.gateway.logs import log
from milvus_coop.serving.gateway.metrics import Metrics
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.pool import BusyError, Pool
from milvus_coop.serving.gateway.searchers import OPEN, Searchers
from milvus_coop.serving.gateway.tracing import Tracing
from milvus_coop.store import Store
from milvus_coop.store.address import parse_address
from milvus_coop.store.schema import Header
from milvus_coop.types import CollectionInfo

T = TypeVar("T")

FOLLOW_S = 2.0
"""Time for which Milvus is not asked again which collection a name stands for; an alias may be moved at any time."""
REOPEN_S = 2.0
"""Minimum time between two openings of a collection that Milvus has not loaded."""
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
            InvalidArgumentError, SourceError: the rerank server of the settings cannot be used, or they name an embedder.
        """
        if settings.embedder:
            raise InvalidArgumentError("an embedder is set", expected="none, because the service runs a bundle")
        rerank_server_of(settings)
        self.settings = settings
        self.options = options
        self.metrics = Metrics()
        self.tracing = tracing or Tracing()
        self.models: Models = open_models(settings, backend)
        self._pool = Pool("milvus-coop-serve", options.slots(settings.models), options.waiting, options.timeout_s)
        self._uploads = Pool("milvus-coop-upload", 1, options.waiting, options.timeout_s)
        self._reads = Pool("milvus-coop-read", SHOWN_AT_ONCE, options.waiting, options.timeout_s)
        self.hide = hider(settings, needed=bool(options.api_keys))
        """Removes the addresses of Milvus and of the models from a message, if clients need a key."""
        # Two locks, because connecting may take as long as the timeout of Milvus, and a check must not wait for that.
        self._connecting, self._checking = threading.Lock(), threading.Lock()
        self._searchers = Searchers(self._open, options.max_collections)
        self._store: Store | None = None
        self._resolved: dict[str, tuple[float, tuple[str, Header | None]]] = {}
        self._ready: tuple[float, dict[str, str]] | None = None
        self.metrics.watch_pending(lambda: sum(pool.pending for pool in (self._pool, self._uploads, self._reads)))

    def warm_up(self) -> None:
        """Load models and open the collection if possible, so that the first request is as fast as later ones."""
        found = self.problems()
        if "models" not in found:  # a model server may start later; waiting for it again and again would only delay the start
            for graph in (IMAGE_ENCODER, CROSS_ENCODER):
                try:
                    self.models.backend.load((graph,))
                except MilvusCoopError as exc:
                    log("not loaded", level=logging.WARNING, model=graph, reason=exc.given)
        if "milvus" in found:  # the same holds for Milvus
            return
        with contextlib.suppress(MilvusCoopError):  # the collection may be created later
            self.search(None, lambda searcher: None, within="")

    async def run(self, function: Callable[[], T], deadline: Deadline = NEVER) -> T:
        """Run a blocking function in the pool.

        Raises:
            BusyError: too many functions are waiting.
            LateError: waiting and running took longer than the service allows.
            DeadlineExceededError: they took until the deadline.
        """
        return await self._counted(self._pool, function, deadline)

    async def run_upload(self, function: Callable[[], T]) -> T:
        """Run an upload. Uploads run one after another and outside the pool; in it, waiting uploads would block searches.

        Raises:
            BusyError, LateError: see `run`.
        """
        return await self._counted(self._uploads, function)

    async def run_read(self, function: Callable[[], T]) -> T:
        """Run a function that reads from an object store. It runs outside the pool; in it, a slow store would block searches.

        Raises:
            BusyError, LateError: see `run`.
        """
        return await self._counted(self._reads, function)

    async def _counted(self, pool: Pool, function: Callable[[], T], deadline: Deadline = NEVER) -> T:
        try:
            return await pool.run(function, deadline)
        except BusyError:
            self.metrics.refused.inc()
            raise

    def search(self, collection: str | None, action: Callable[[CoopSearch], T], *, within: str, deadline: Deadline = NEVER) -> T:
        """Run `action` with the search of a collection, which is opened on first use.

        If the collection was dropped and created again, or if the name is an alias that was moved, it is opened again. So it is if
        somebody released it, because opening it loads it; but not within `REOPEN_S`, so that a Milvus that is starting is not asked
        again and again, nor while its index waits to be built, which has to happen before it is loaded.

        Args:
            collection: name of the collection; None means the one that the settings name.
            action: the function to run.
            within: the filter of the caller's key, `Facts.filter`; '' if the caller sees all items.
            deadline: the moment by which the collection has to be open; the action has a deadline of its own.

        Raises:
            CollectionNotFoundError, ForeignCollectionError, BundleMismatchError: the collection cannot be used.
            StoreError: Milvus cannot be reached or refuses the request.
            DeadlineExceededError: the deadline came before the collection was open.
        """
        self._check_database()
        name = collection or self.settings.collection
        if deadline.is_never:  # the client gets no answer after this time
            deadline = Deadline(self.options.timeout_s)
        with self._searchers.using(name, deadline) as searcher:
            with contextlib.suppress(CollectionNotFoundError):
                if self._is_current(name, searcher, deadline):
                    try:
                        return action(searcher.within(within) if within else searcher)
                    except CollectionNotLoadedError:
                        if self._searchers.is_new(searcher, REOPEN_S) or self.store().awaits_index(name):
                            raise
            self._searchers.forget(searcher)
        with self._searchers.using(name, deadline) as searcher:
            return action(searcher.within(within) if within else searcher)

    def _is_current(self, name: str, searcher: CoopSearch, deadline: Deadline) -> bool:
        """False if the name stands for another collection than before. Milvus is asked once in two seconds."""
        now_s = time.monotonic()
        asked_s, resolved = self._resolved.get(name, (0.0, None))
        if resolved is None or now_s - asked_s > FOLLOW_S:
            with deadline.toward(OPEN):
                resolved = self.store().resolve(name, deadline)
            self._resolved[name] = (now_s, resolved)
        return resolved == (searcher.collection.name, searcher.collection.header)

    def _open(self, name: str) -> CoopSearch:
        self.store().describe(name)  # opening a missing collection takes ten times as long
        return CoopSearch(name, models=self.models.backend, settings=self.settings)

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
        with self._connecting:
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
        """The problem of each part (`milvus`, `models`) that is not ready; empty if the service is ready.

        Of the models, only the text encoder counts. Without the cross-encoder, searches are still answered in the bi-encoder's
        order, and without the image encoder, those with a text. A balancer that left out all gateways then would make it worse.
        """
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
            ("models", lambda: self.models.backend.load((TEXT_ENCODER,))),
        )
        for name, check in checks[1:] if self.options.models_only else checks:
            try:
                check()
            except MilvusCoopError as exc:
                found[name] = exc.given
        return found

    def close_idle(self) -> None:
        """Close the collections that nobody has used for the options' `idle_s`, with their connections to Milvus.

        The collection of the settings stays open, and so does the connection of `store`, which all lookups share.
        """
        self._searchers.close_idle(self.options.idle_s, keep=self.settings.collection)

    def close(self) -> None:
        """Wait for running requests, then free the models and connections."""
        for pool in (self._pool, self._uploads, self._reads):
            pool.close()
        self._searchers.close()
        if self._store is not None:
            with contextlib.suppress(MilvusCoopError):
                self._store.close()
        self.models.close()
        self.tracing.close()
