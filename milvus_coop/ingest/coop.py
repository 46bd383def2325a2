"""`CoopIngest`: the counterpart of `CoopSearch` that fills a collection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict, get_args

from milvus_coop.arguments import length_of, one_of
from milvus_coop.config import Settings, SettingsArguments
from milvus_coop.errors import InvalidArgumentError, quoted
from milvus_coop.ingest.items import Item
from milvus_coop.ingest.options import RUNS, IngestArguments, IngestOptions, ingest_options
from milvus_coop.ingest.run import ingest, ingest_items
from milvus_coop.ingest.sink import Progress, Sink
from milvus_coop.ingest.sources import check_sources, listed
from milvus_coop.models.backends import Backend
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.open import open_models, split_models
from milvus_coop.store import CollectionOptions, Store
from milvus_coop.store.schema import DEFAULTS
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import IngestReport, Kind

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Into(TypedDict):
    """The collection that items go into, and the encoder that reads them."""

    sink: Sink
    encoder: Encoder
    kind: Kind
    tokens: TokenStore | None


class CoopIngest:
    """Fills one collection. If the collection does not exist, the first `run` creates it.

    Close it, or use it as a context manager, to free a Milvus Lite path.
    """

    def __init__(
        self,
        collection: str | None = None,
        *,
        kind: Kind = "image",
        options: CollectionOptions = DEFAULTS,
        models: str | Backend | None = None,
        settings: Settings | None = None,
        **overrides: Unpack[SettingsArguments],
    ) -> None:
        """Open a collection, or prepare to create it.

        Args:
            collection: name of the collection; default that of `settings`, which is `images`.
            kind: kind of the items: `image` or `text`.
            options: the index of a new collection, its partition key and more.
            models: the backend that runs the bundle, as in `Settings`; or a backend object, which the caller has to close.
            settings: the connection; default the environment (MILVUS_COOP_URI, ...), and the built-in defaults for variables that
                are not set.
            overrides: other values for fields of the settings: `uri="http://milvus:19530"`, `bundle=`, `timeout_s=`, ... The
                docstrings of `Settings` say what each one is.

        Raises:
            InvalidArgumentError: an argument has the wrong type, is out of range, or is unknown (then also a TypeError).
            CollectionExistsError, ForeignCollectionError, BundleMismatchError: there is a collection of that name that cannot be
                used.
            StoreError: Milvus cannot be reached or refuses the request.
            BundleError: the bundle cannot be used.
        """
        settings, backend = split_models(settings, collection, models, overrides)
        one_of("kind", kind, get_args(Kind))
        if not isinstance(options, CollectionOptions):
            raise InvalidArgumentError(f"options is {quoted(options)}", expected="a CollectionOptions object")
        self._name = settings.collection
        self._kind = kind
        self._options = options
        self._models = open_models(settings, backend, runs=RUNS)
        try:
            self._store = Store.from_settings(settings)
            self._collection = self._store.open_if_there(self._name, self._models.encoder.spec, kind)
        except BaseException:
            self.close()
            raise

    def run(
        self,
        sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        options: IngestOptions | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **changes: Unpack[IngestArguments],
    ) -> IngestReport:
        """Bring the collection up to date with the sources. Safe to repeat, even after a run that was killed.

        Args:
            sources: folders, prefixes of object stores, globs, files, and lists, tables and shards of items; see docs/ingest.md. A
                single path is one source.
            options: the options of the ingest.
            on_progress: a function that is called regularly with the counts so far.
            changes: other values for fields of the options, such as `prune=True`; the docstrings of `IngestOptions` say what each
                one is.

        Raises:
            SourceError: a source is missing, empty or malformed.
            InvalidArgumentError: an option has the wrong type, is out of range, or is unknown.
            StoreError, BackendError: Milvus or the encoder failed; rows that were written stay.
            TooManyFailuresError: more items failed than `max_failures`; the others so far are in the collection.
        """
        sources, options = listed(sources), ingest_options(options, changes)
        # First, because a mistyped path must not leave an empty collection behind.
        check_sources(sources, self._kind, options.reading)
        return self._ingested(lambda into: ingest(sources, options, on_progress=on_progress, **into))

    def ingest_items(
        self,
        items: Iterable[Item],
        options: IngestOptions | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **changes: Unpack[IngestArguments],
    ) -> IngestReport:
        """Bring the collection up to date with items that the caller has. Safe to repeat.

        Items are taken one by one while earlier ones are encoded, so that a generator may yield any number of them. Memory grows
        only with the failures, which the report lists. If two items have the same uri, the last one counts.

        Args:
            items: any iterable of items, which may hold paths, bytes, and images of Pillow's in any mix.
            options: the options of the ingest, except those for sources: `prune`, `allow_http` and `image_column`.
            on_progress: a function that is called regularly with the counts so far.
            changes: other values for fields of the options, such as `force=True`.

        Raises:
            InvalidArgumentError: `items` yields something else, or an option is wrong.
            StoreError, BackendError: Milvus or the encoder failed; rows that were written stay.
            TooManyFailuresError: more items failed than `max_failures`; the others so far are in the collection.
        """
        options, total, coming = ingest_options(options, changes), length_of(items), iter(items)
        if (first := next(coming, None)) is None:  # no items must not leave an empty collection behind
            return IngestReport(0, 0, 0, 0, (), 0.0)
        whole = chain([first], coming)
        return self._ingested(lambda into: ingest_items(whole, options, on_progress=on_progress, total=total, **into))

    def _ingested(self, run: Callable[[Into], IngestReport]) -> IngestReport:
        encoder = self._models.encoder
        if self._collection is None:
            self._collection = self._store.open_or_create(self._name, encoder.spec, self._kind, options=self._options)
        report = run({"sink": self._collection, "encoder": encoder, "kind": self._kind, "tokens": self._collection.tokens})
        self._collection.flush()
        if self._options.build_index == "after":
            self._store.build_index(self._name)
        return report

    def close(self) -> None:
        """Free the connection and the models. Safe to call twice."""
        self._models.close()
        if hasattr(self, "_store"):
            self._store.close()

    def __enter__(self) -> CoopIngest:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
