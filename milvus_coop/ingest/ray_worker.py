"""The part of an ingest on a Ray cluster that runs on its workers: chunks of items go through the stages of the local engine.

This module does not use Ray. A chunk travels as bytes; its items hold addresses, paths, or the bytes of images.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from milvus_coop.config import Settings
from milvus_coop.errors import MilvusCoopError
from milvus_coop.ingest.items import Entry
from milvus_coop.ingest.options import IngestOptions
from milvus_coop.ingest.pipeline import Counts, Pipeline, chunks
from milvus_coop.ingest.sources import PassedOver, Source, read_sources
from milvus_coop.ingest.work import work_for
from milvus_coop.models.open import open_models
from milvus_coop.store import Collection, Store
from milvus_coop.store.layout import PartitionKey
from milvus_coop.store.token_store import Location, TokenStore
from milvus_coop.types import Kind, Row, Stamp

if TYPE_CHECKING:
    import pyarrow

COLUMN = "pickled"
"""The only column of the tables that travel: Python objects as bytes."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some items, or what their sources passed over."""

    entries: Sequence[Entry] = ()
    passed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a chunk."""

    counts: Counts
    rows: Sequence[Row]
    """The rows that the driver has to write; none if the worker wrote them."""
    passed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Lite:
    """The state of a Milvus Lite database, which only the driver has open."""

    stamps: Mapping[str, Stamp]
    partition_key: PartitionKey | None
    tokens: Location | None


@dataclass(frozen=True, slots=True)
class Job:
    """The work of every worker. `settings.threads` is their number of threads."""

    settings: Settings
    kind: Kind
    options: IngestOptions


def read_chunks(sources: Sequence[Source], length: int) -> Iterator[Chunk]:
    """The items of all sources in chunks, and then what was passed over."""
    passed = PassedOver()
    for entries in chunks(read_sources(sources, set(), passed), length):
        yield Chunk(entries)
    yield Chunk(passed=passed.counts)


def packed(value: Chunk | Result | MilvusCoopError) -> pyarrow.Table:
    """A table with one row, which holds the object."""
    import pyarrow as pa

    return pa.table({COLUMN: pa.array([pickle.dumps(value)], pa.large_binary())})


def unpacked(content: bytes) -> Any:
    """The object in a row. The bytes come from `packed` in a process of the same cluster, to which Ray itself sends pickles."""
    return pickle.loads(content)  # noqa: S301


class Worker:
    """Encodes chunks. It opens the models once; and, on a Milvus server, a connection.

    Args:
        job: the work.
        lite: the state of Milvus Lite; None for a server.
    """

    def __init__(self, job: Job, lite: Lite | None) -> None:
        self._options = job.options
        encoder = open_models(job.settings).encoder
        tokens: TokenStore | None
        self._sink: ReturnedRows | RepeatableWrites
        if lite is None:
            collection = Store.from_settings(job.settings).open(job.settings.collection, encoder.spec)
            self._sink, tokens = RepeatableWrites(collection), collection.tokens
        else:
            self._sink, tokens = ReturnedRows(lite), None if lite.tokens is None else TokenStore.at(lite.tokens)
        self._work = work_for(job.kind, encoder, tokens)

    def result(self, chunk: Chunk) -> Result:
        """Ingest the items of a chunk."""
        pipeline = Pipeline(self._sink, self._work, self._options)
        try:
            pipeline.run(chunk.entries)
        finally:
            pipeline.stop()
        return Result(pipeline.counts, self._sink.taken(), chunk.passed)


class RepeatableWrites:
    """A collection on a server whose rows are upserted, never inserted.

    Ray repeats the chunk of a worker that it lost, and the lost worker may still be writing: two inserts could leave two rows.
    """

    def __init__(self, collection: Collection) -> None:
        self.stamps = collection.stamps
        self.all_stamps = collection.all_stamps
        self.upsert = self.insert = collection.upsert
        self.settle = collection.settle
        self.delete = collection.delete
        self.refusal = collection.refusal

    def taken(self) -> list[Row]:
        """No rows, because they are written."""
        return []


class ReturnedRows:
    """Takes rows for the driver, which writes them. Stamps are those that the collection had at the start."""

    def __init__(self, lite: Lite) -> None:
        self._lite = lite
        self._rows: list[Row] = []

    def stamps(self, ids: Sequence[str]) -> dict[str, Stamp]:
        """See `Sink.stamps`."""
        return {id: self._lite.stamps[id] for id in ids if id in self._lite.stamps}

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """See `Sink.all_stamps`."""
        yield from self._lite.stamps.items()

    def upsert(self, rows: Sequence[Row]) -> None:
        """Keep the rows for `taken`."""
        self._rows += rows

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
        """The rows since the last call."""
        rows, self._rows = self._rows, []
        return rows
