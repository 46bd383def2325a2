"""The interface that an ingest needs from a collection, and the progress that an ingest reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from milvus_coop.errors import MilvusCoopError
from milvus_coop.types import IngestReport, Row, Stamp


class Sink(Protocol):
    """The target of an ingest: a `milvus_coop.store.Collection`, or any other object with these methods.

    `rows`, `upsert`, `insert` and `settle` run in one thread while `stamps` is called from another. All methods raise StoreError.
    """

    def stamps(self, ids: Sequence[str]) -> Mapping[str, Stamp]:
        """The stamps of these items, by id. Items that the collection does not have are left out."""

    def rows(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """The whole rows of these items, by id. Those that would take long to read are left out; their items are encoded again."""

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Id and stamp of every item."""

    def upsert(self, rows: Sequence[Row]) -> object:
        """Add rows, or replace those with the same id."""

    def insert(self, rows: Sequence[Row]) -> object:
        """Add rows whose ids had no stamp. If somebody added one meanwhile, it is replaced, at the latest by `settle`."""

    def settle(self) -> object:
        """Finish the inserts so far. The ingest calls this after its last row."""

    def delete(self, ids: Sequence[str]) -> object:
        """Remove rows."""

    def refusal(self, metadata: Mapping[str, Any] | None) -> str:
        """The reason why no item can have this metadata, such as a missing partition key; '' if one can."""


Stage = Literal["sources", "lookup", "read", "encode", "write"]
"""A stage of an ingest: `sources` lists folders and reads lists, shards and tables, `lookup` asks the collection for stamps, `read`
reads and decodes items, `encode` runs the encoder, `write` writes token files and rows."""
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True, slots=True)
class StageTime:
    """The time of one stage, summed over threads and workers."""

    seconds: float
    """Seconds that were spent in the stage."""
    available_s: float
    """Seconds that its threads had for it. A stage that is busy for nearly all of them limits the ingest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of an ingest."""

    seen: int
    """Number of items taken from the sources so far."""
    done: int
    """Number of finished items: `added + updated + unchanged + failed`."""
    added: int
    updated: int
    unchanged: int
    failed: int
    total: int | None
    """Number of items in all sources; None while they are being counted."""
    seconds: float = 0.0
    """Seconds since the start of the ingest."""
    stages: Mapping[Stage, StageTime] = field(default_factory=dict)


class IngestInterrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C during an ingest. All items encoded so far are in the collection; the next run continues there."""

    def __init__(self, report: IngestReport) -> None:
        super().__init__("the ingest was interrupted")
        self.report = report
        """The counts until the interruption."""


class TooManyFailuresError(MilvusCoopError):
    """More items failed than the caller allows. The items encoded so far are in the collection."""

    def __init__(self, allowed: int, report: IngestReport) -> None:
        super().__init__(
            f"{report.failed:,} of {report.seen:,} items failed, and the ingest was stopped",
            expected=f"at most {allowed:,} failures (--max-failures)",
        )
        self.report = report
        """The counts until then."""
