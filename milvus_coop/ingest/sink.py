"""What ingest needs of a collection, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from milvus_coop.types import IngestReport, Row, Stamp


class Sink(Protocol):
    """Where items go: a `milvus_coop.store.Collection`, or anything else with these four methods.

    `upsert` runs in a thread of its own while `stamps` is called from another. All raise StoreError.
    """

    def stamps(self, ids: Sequence[str]) -> Mapping[str, Stamp]:
        """What is known of these items, by id; those that are not there are left out."""

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Id and stamp of every item."""

    def upsert(self, rows: Sequence[Row]) -> object:
        """Add rows, or replace those with the same id."""

    def delete(self, ids: Sequence[str]) -> object:
        """Remove rows."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an ingest is."""

    seen: int
    """Items taken from the sources so far."""
    done: int
    """Items that are dealt with: `added + updated + unchanged + failed`."""
    added: int
    updated: int
    unchanged: int
    failed: int
    total: int | None
    """Number of items in all sources; None while they are being counted."""


class IngestInterrupted(KeyboardInterrupt):
    """Ctrl-C during an ingest. What was encoded by then is in the collection; the next run goes on from there."""

    def __init__(self, report: IngestReport) -> None:
        super().__init__("the ingest was interrupted")
        self.report = report
        """What was done until then."""
