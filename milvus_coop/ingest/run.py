"""One whole ingest: check the sources, run the pipeline, prune, and report."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from typing import TYPE_CHECKING

from milvus_coop.arguments import length_of
from milvus_coop.errors import InvalidArgumentError, StoreError
from milvus_coop.ingest.counts import Counts, HopelessError
from milvus_coop.ingest.items import Entry, Item
from milvus_coop.ingest.options import IngestArguments, IngestOptions, ingest_options
from milvus_coop.ingest.pipeline import Pipeline
from milvus_coop.ingest.sink import IngestInterrupted, Progress, Sink, TooManyFailuresError
from milvus_coop.ingest.sources import PassedOver, Reading, Source, open_sources, read_sources
from milvus_coop.ingest.work import work_for
from milvus_coop.models.encoder import Encoder
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Failure, IngestReport, Kind

if TYPE_CHECKING:
    from typing_extensions import Unpack

STOP_S = 2.0
"""Time to wait for the counting thread to stop; it may be reading a folder with a million names."""

DELETE = 1000
"""Number of rows of one delete."""


def ingest(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    options: IngestOptions | None = None,
    *,
    sink: Sink,
    encoder: Encoder,
    kind: Kind = "image",
    tokens: TokenStore | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    reading: Reading | None = None,
    **changes: Unpack[IngestArguments],
) -> IngestReport:
    """Bring a collection up to date with its sources: new items are added, changed ones updated, unchanged ones skipped.

    An item is unchanged if its file has the size and modification time that the collection remembers, or else the same content.
    Items of a list must also have the same metadata. After an ingest was killed, run it again.

    Args:
        sources: folders, prefixes of object stores, globs, images, lists (JSONL, CSV), tables (Parquet) and shards (tar); for
            texts: files of texts (txt, JSONL, CSV), tables, shards and globs. A single path is one source.
        options: the options of the ingest.
        sink: the collection.
        encoder: the bi-encoder of the bundle that the collection was made with.
        kind: the kind of the collection.
        tokens: the collection's `tokens`, the place of token files, for bundles whose image tokens are too large for Milvus. Token
            files are written before the rows that name them.
        on_progress: a function that is called in this thread, about ten times a second and at the end.
        reading: how the sources are read, instead of `options.reading`.
        changes: other values for fields of the options, such as `prune=True`; see `IngestOptions`.

    Returns:
        The counts, and each item that failed with its reason.

    Raises:
        SourceError: a source is missing, empty or of an unknown type. Nothing was done.
        InvalidArgumentError: an option is out of range, or the bundle needs `tokens`.
        BackendError, StoreError: the model or Milvus failed. Rows that were written stay; run the ingest again.
        IngestInterrupted: the user pressed Ctrl-C. All encoded items are written, and the exception has the report.
        TooManyFailuresError: more items failed than `max_failures`. Encoded items are written, and the exception has the report.
    """
    options, work = ingest_options(options, changes), work_for(kind, encoder, tokens)
    start = time.monotonic()
    opened, seen, passed = open_sources(sources, kind, reading or options.reading), set[str](), PassedOver()
    with _Total(opened, wanted=on_progress is not None) as total:
        pipeline = Pipeline(sink, work, options, on_progress, total, runs=encoder.runs)
        _run(pipeline, read_sources(opened, seen, passed, for_gone=options.prune), passed, start)
    removed, broken = 0, pipeline.counts.broken
    if options.prune and pipeline.counts.seen and not broken:  # what was listed a moment ago may be empty now
        removed = _prune(opened, seen, sink)
    return _report(pipeline.counts, removed, time.monotonic() - start, passed, pruning_skipped=options.prune and broken)


def ingest_items(
    items: Iterable[Item],
    options: IngestOptions | None = None,
    *,
    sink: Sink,
    encoder: Encoder,
    kind: Kind = "image",
    tokens: TokenStore | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    total: int | None = None,
    **changes: Unpack[IngestArguments],
) -> IngestReport:
    """Ingest items one after the other. Only a few thousand are held at a time, and at most about 160 MB of their images.

    If two items have the same uri, the last one counts. `total` is their number, for the progress, if `items` does not know it.
    For the other arguments and the errors, see `ingest`; an item that is not
    an `Item` is an InvalidArgumentError, and so are options that are only for sources.
    """
    options, work = ingest_options(options, changes), work_for(kind, encoder, tokens)
    if for_sources := [name for name in ("prune", "allow_http", "image_column") if getattr(options, name)]:
        raise InvalidArgumentError(f"{for_sources[0]} is an option for sources, and items are given", expected="items without it")
    start = time.monotonic()
    total = length_of(items) if total is None else total
    pipeline = Pipeline(sink, work, options, on_progress, lambda: total, runs=encoder.runs)
    _run(pipeline, items, PassedOver(), start)
    return _report(pipeline.counts, 0, time.monotonic() - start, PassedOver())


def _run(pipeline: Pipeline, entries: Iterable[Entry], passed: PassedOver, start: float) -> None:
    try:
        pipeline.run(entries)
    except StoreError:
        raise
    except HopelessError as exc:
        pipeline.flush()
        pipeline.report()
        raise TooManyFailuresError(exc.args[0], _report(pipeline.counts, 0, time.monotonic() - start, passed)) from None
    except KeyboardInterrupt:
        pipeline.flush()
        with contextlib.suppress(KeyboardInterrupt):  # it may have come from the function that is told the progress
            pipeline.report()
        raise IngestInterrupted(_report(pipeline.counts, 0, time.monotonic() - start, passed)) from None
    except BaseException:
        with contextlib.suppress(StoreError):  # the first error is the one to raise
            pipeline.flush()
        raise
    finally:
        pipeline.stop()


def _prune(sources: Sequence[Source], seen: Set[str], sink: Sink) -> int:
    tests = [source.gone(seen) for source in sources]
    ids = [key for key, stamp in sink.all_stamps() if any(is_gone(stamp.uri, key) for is_gone in tests)]
    for i in range(0, len(ids), DELETE):
        sink.delete(ids[i : i + DELETE])
    return len(ids)


def _report(counts: Counts, removed: int, seconds: float, passed: PassedOver, *, pruning_skipped: bool = False) -> IngestReport:
    failures = counts.failures
    if pruning_skipped:
        first, *others = failures
        failures = [Failure(first.uri, f"{first.reason} (and so nothing was pruned)"), *others]
    return IngestReport(
        added=counts.added,
        updated=counts.updated,
        unchanged=counts.unchanged,
        removed=removed,
        failures=tuple(failures),
        seconds=seconds,
        passed_over=dict(sorted(passed.counts.items())),
    )


class _Total:
    """Counts the items of all sources in a thread during the ingest. Calling it returns the number; None until it is known."""

    def __init__(self, sources: Sequence[Source], wanted: bool) -> None:
        self._sources = sources
        self._wanted = wanted and all(source.is_quick for source in sources)
        self._stop = False
        self._total: int | None = None
        self._thread = threading.Thread(target=self._count, name="milvus-coop-count", daemon=True)

    def _count(self) -> None:
        n = 0
        with contextlib.suppress(Exception):  # the ingest finds the same problem and reports it
            for _ in read_sources(self._sources, set()):
                n += 1
                if self._stop:
                    return
            self._total = n

    def __call__(self) -> int | None:
        return self._total

    def __enter__(self) -> _Total:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop = True
        if self._wanted:
            self._thread.join(STOP_S)
