"""The workers of an ingest on a cluster. A worker takes the items of a part through the stages of the local engine.

This module does not use Ray. A part travels as bytes; its items hold addresses, paths, or the bytes of images.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from milvus_coop.config import Settings
from milvus_coop.elsewhere.location import Location
from milvus_coop.elsewhere.outages import patiently
from milvus_coop.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    MilvusCoopError,
    StoreTimeoutError,
    StoreUnavailableError,
    TokenStoreError,
)
from milvus_coop.ingest.cluster.parts import Part, Rest
from milvus_coop.ingest.counts import Counts
from milvus_coop.ingest.items import Entry
from milvus_coop.ingest.options import RUNS, IngestOptions
from milvus_coop.ingest.pipeline import Pipeline
from milvus_coop.ingest.sources import PassedOver
from milvus_coop.ingest.work import work_for
from milvus_coop.models.open import open_models
from milvus_coop.store import Collection, Store
from milvus_coop.store.layout import PartitionKey
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Failure, Kind, Row, Stamp

if TYPE_CHECKING:
    import pyarrow

Returned = TypeVar("Returned")

COLUMN = "pickled"
"""The only column of the tables that travel: Python objects as bytes."""
DIED = "its worker died each time while it was read or encoded"
LOST_STORE = (StoreUnavailableError, StoreTimeoutError)
LOST = (*LOST_STORE, TokenStoreError, BackendUnavailableError, BackendTimeoutError)
"""Errors of an outage. A part is ingested again after it."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a part: its counts, and its rows if the driver has to write them."""

    part: Part
    """The part, without its items."""
    counts: Counts
    rows: Sequence[Row]
    """The rows that the driver has to write; none if the worker wrote them."""
    sample: str
    """The id of an item that is in the collection now; '' if there is none."""
    passed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Lite:
    """The state of a Milvus Lite database, which only the driver has open."""

    stamps: Mapping[str, Stamp]
    partition_key: PartitionKey | None
    tokens: Location | None


@dataclass(frozen=True, slots=True)
class Job:
    """The work of every worker. `settings.threads` is the number of cores of each."""

    settings: Settings
    kind: Kind
    options: IngestOptions


def packed(value: Part | Rest | Result | MilvusCoopError | None) -> pyarrow.Table:
    """A table with one row, which holds the object."""
    import pyarrow as pa

    return pa.table({COLUMN: pa.array([pickle.dumps(value)], pa.large_binary())})


def unpacked(content: bytes) -> Any:
    """The object in a row. The bytes come from `packed` in a process of the same cluster, to which Ray itself sends pickles."""
    return pickle.loads(content)  # noqa: S301


def through_outages(call: Callable[[], Returned]) -> Returned:
    """The result of a call of the store, which is repeated after an outage of Milvus."""
    return patiently(call, lambda exc: isinstance(exc, LOST_STORE))


class Worker:
    """Ingests parts. It opens the models once; and, on a Milvus server, a connection.

    Args:
        job: the work.
        lite: the state of Milvus Lite; None for a server.
    """

    def __init__(self, job: Job, lite: Lite | None) -> None:
        self._options = job.options
        encoder = open_models(job.settings, runs=RUNS).encoder
        tokens: TokenStore | None
        self._sink: ReturnedRows | RepeatableWrites
        if lite is None:
            store = through_outages(lambda: Store.from_settings(job.settings))
            opened = through_outages(lambda: store.open(job.settings.collection, encoder.spec))
            self._sink, tokens = RepeatableWrites(opened), opened.tokens
        else:
            self._sink, tokens = ReturnedRows(lite), None if lite.tokens is None else TokenStore.at(lite.tokens)
        self._runs = encoder.runs
        self._work = work_for(job.kind, encoder, tokens)

    def result(self, part: Part, hold: Callable[[str], object] | None = None, deadly: Set[str] = frozenset()) -> Result:
        """Ingest the items of a part. After an outage of a server or of the images' store, the part is ingested again.

        Args:
            part: the part.
            hold: if given, items are ingested one by one, and this function is called with the uri of each before.
            deadly: uris of items during which a worker died, which are failures.
        """
        return patiently(
            lambda: self._once(part, hold, deadly),
            lambda exc: isinstance(exc, LOST),
            again=lambda result: any(failure.may_pass and failure.reason != DIED for failure in result.counts.failures),
        )

    def _once(self, part: Part, hold: Callable[[str], object] | None, deadly: Set[str]) -> Result:
        passed, counts = PassedOver(), Counts()
        self._sink.begin()
        if hold is None:
            self._run(part.entries(passed), counts)
        else:
            for entry in part.entries(passed):
                uri = entry.uri
                hold(uri)
                self._run([Failure(uri, DIED, may_pass=True) if uri in deadly else entry], counts)
        return Result(part.without_items(), counts, self._sink.taken(), self._sink.sample, passed.counts)

    def _run(self, entries: Iterable[Entry], counts: Counts) -> None:
        pipeline = Pipeline(self._sink, self._work, self._options, runs=self._runs)
        try:
            pipeline.run(entries)
        finally:
            pipeline.stop()
        counts.add(pipeline.counts)


class RepeatableWrites:
    """A collection on a server whose rows are upserted, never inserted.

    Ray repeats the part of a worker that it lost, and the lost worker may still be writing: two inserts could leave two rows.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.all_stamps = collection.all_stamps
        self.settle = collection.settle
        self.delete = collection.delete
        self.refusal = collection.refusal
        self.rows = collection.rows
        self.sample = ""
        """The id of an item of the part that is in the collection; '' if there is none yet."""

    def begin(self) -> None:
        """Begin a part."""
        self.sample = ""

    def stamps(self, ids: Sequence[str]) -> Mapping[str, Stamp]:
        """See `Sink.stamps`."""
        stamps = self._collection.stamps(ids)
        self.sample = next(iter(stamps), self.sample)
        return stamps

    def upsert(self, rows: Sequence[Row]) -> None:
        """See `Sink.upsert`."""
        self._collection.upsert(rows)
        self.sample = rows[0].id

    insert = upsert

    def taken(self) -> list[Row]:
        """No rows, because they are written."""
        return []


class ReturnedRows:
    """Takes rows for the driver, which writes them. Stamps are those that the collection had at the start."""

    def __init__(self, lite: Lite) -> None:
        self._lite = lite
        self._rows: list[Row] = []
        self.sample = ""
        """See `RepeatableWrites.sample`."""

    def begin(self) -> None:
        """Begin a part, and drop what is left of one that failed."""
        self._rows, self.sample = [], ""

    def stamps(self, ids: Sequence[str]) -> dict[str, Stamp]:
        """See `Sink.stamps`."""
        stamps = {id: self._lite.stamps[id] for id in ids if id in self._lite.stamps}
        self.sample = next(iter(stamps), self.sample)
        return stamps

    def rows(self, ids: Sequence[str]) -> dict[str, Row]:
        """No rows, because only the driver reads the collection."""
        return {}

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """See `Sink.all_stamps`."""
        yield from self._lite.stamps.items()

    def upsert(self, rows: Sequence[Row]) -> None:
        """Keep the rows for `taken`."""
        self._rows += rows
        self.sample = rows[0].id

    insert = upsert

    def settle(self) -> None:
        """Nothing is written yet."""

    def delete(self, ids: Sequence[str]) -> None:
        """A worker removes nothing."""
        raise NotImplementedError

    def refusal(self, metadata: Mapping[str, Any] | None) -> str:
        """See `Sink.refusal`."""
        key = self._lite.partition_key
        return "" if key is None else key.problem(metadata or {})

    def taken(self) -> list[Row]:
        """The rows of the part."""
        return self._rows
