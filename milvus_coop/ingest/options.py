"""`IngestOptions`: the options of an ingest, in one place for the SDK, the command line and all engines."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypedDict

from milvus_coop.arguments import check_names, string, whole_number
from milvus_coop.cores import available_cores, thread_count
from milvus_coop.errors import InvalidArgumentError, quoted
from milvus_coop.ingest.sources import Reading, Web

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_BATCH = 256
MAX_FAILURES = 2**63 - 1
RUNS = 2
"""Number of runs of an encoder in this process at the same time. They share a batch and the cores. In a single run, cores wait for
each other after every step of the graph, and while the outputs are made ready for the collection."""
PER_CORE = 4
"""Maximum number of threads per core that read and decode. Threads that read from a network often wait."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """The options of an ingest. Each field is also a keyword argument of `CoopIngest.run` and of its counterparts.

    Raises:
        InvalidArgumentError: a value has the wrong type or is out of range; the message names the first one.
    """

    prune: bool = False
    """Remove the items of the sources that no longer exist: files that were deleted, and lines that were removed from a file of
    texts. Items outside the sources stay. Nothing is removed if a part of the sources cannot be read."""
    force: bool = False
    """Encode all items again, even unchanged ones."""
    batch: int = 16
    """Number of items that are encoded at the same time, at most 256."""
    threads: int | None = None
    """Number of threads that read and decode, at most four per core; None means one per core, at most 8."""
    allow_http: bool = False
    """Fetch files at http:// and https:// addresses, except from private addresses."""
    image_column: str | None = None
    """The column of Parquet tables that holds images; None means one with a usual name."""
    max_failures: int | None = None
    """Number of failures after which the ingest stops with `TooManyFailuresError`; None means that it never does."""

    def __post_init__(self) -> None:
        """Check and convert the values."""
        for name in ("prune", "force", "allow_http"):
            if not isinstance(value := getattr(self, name), bool):
                raise InvalidArgumentError(f"{name} is {quoted(value)}", expected="True or False")
        checked = {
            "batch": whole_number("batch", self.batch, 1, MAX_BATCH),
            "threads": None if self.threads is None else thread_count(self.threads, per_core=PER_CORE),
            "image_column": None if self.image_column is None else string("image_column", self.image_column),
            "max_failures": None if self.max_failures is None else whole_number("max_failures", self.max_failures, 0, MAX_FAILURES),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def change(self, **changes: Unpack[IngestArguments]) -> IngestOptions:
        """A copy with other values.

        Raises:
            UnknownArgumentError: there is no such option; the message names the most similar one.
            InvalidArgumentError: a value has the wrong type or is out of range.
        """
        check_names(changes, (item.name for item in fields(self)))
        return replace(self, **changes)

    @property
    def decoders(self) -> int:
        """Number of threads that read and decode."""
        return self.threads or min(8, available_cores())

    @property
    def reading(self) -> Reading:
        """How the sources are read."""
        return Reading(Web() if self.allow_http else None, self.image_column)


class IngestArguments(TypedDict, total=False):
    """The fields of `IngestOptions` as keyword arguments."""

    prune: bool
    force: bool
    batch: int
    threads: int | None
    allow_http: bool
    image_column: str | None
    max_failures: int | None


def ingest_options(options: IngestOptions | None, changes: IngestArguments) -> IngestOptions:
    """The options of a call that takes them as a record, as keyword arguments, or both; keywords replace values of the record.

    Raises:
        UnknownArgumentError, InvalidArgumentError: see `IngestOptions.change`; or `options` is something else.
    """
    if options is not None and not isinstance(options, IngestOptions):
        raise InvalidArgumentError(f"options is {quoted(options)}", expected="an IngestOptions object")
    return (options or IngestOptions()).change(**changes)
