"""One whole ingest: check the sources, run the pipeline, prune, and report."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set, Sized

from milvus_coop.arguments import whole_number
from milvus_coop.cores import thread_count
from milvus_coop.errors import StoreError
from milvus_coop.ingest.items import Entry, Item
from milvus_coop.ingest.pipeline import Counts, HopelessError, Options, Pipeline
from milvus_coop.ingest.sink import IngestInterrupted, Progress, Sink, TooManyFailuresError
from milvus_coop.ingest.sources import PassedOver, Reading, Source, open_sources, read_sources
from milvus_coop.ingest.work import work_for
from milvus_coop.models.encoder import Encoder
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Failure, IngestReport, Kind

STOP_S = 2.0
"""Time to wait for the counting thread to stop; it may be reading a folder with a million names."""

MAX_BATCH = 256

PER_CORE = 4
"""Maximum number of threads per core that read and decode. Threads that read from a network often wait."""

DELETE = 1000
"""Number of rows of one delete."""


def ingest(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    sink: Sink,
    encoder: Encoder,
    kind: Kind = "image",
    tokens: TokenStore | None = None,
    prune: bool = False,
    batch: int = 16,
    threads: int | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    reading: Reading | None = None,
    max_failures: int | None = None,
) -> IngestReport:
    """Bring a collection up to date with its sources: new items are added, changed ones updated, unchanged ones skipped.

    An item is unchanged if its file has the size and modification time that the collection remembers, or else the same content.
    Items of a list must also have the same metadata. After an ingest was killed, run it again.

    Args:
        sources: folders, prefixes of object stores, globs, images, lists (JSONL, CSV), tables (Parquet) and shards (tar); for
            texts: files of texts (txt, JSONL, CSV), tables, shards and globs. A single path is one source.
        sink: the collection.
        encoder: the bi-encoder of the bundle that the collection was made with.
        kind: the kind of the collection.
        tokens: the collection's `tokens`, the place of token files, for bundles whose image tokens are too large for Milvus. Token
            files are written before the rows that name them.
        prune: remove the items of the sources that no longer exist: files that were deleted, and lines that were removed from a
            file of texts. Items outside the sources stay. Nothing is removed if a part of the sources cannot be read.
        batch: number of items per run of the encoder, at most 256.
        threads: number of threads that read and decode, at most four per core; default one per core, at most 8.
        force: encode unchanged items too.
        on_progress: a function that is called in this thread, about ten times a second and at the end.
        reading: how the sources are read: whether http:// is allowed, and which column of tables holds images.
        max_failures: number of failures after which the ingest stops; default it never does.

    Returns:
        The counts, and each item that failed with its reason.

    Raises:
        SourceError: a source is missing, empty or of an unknown type. Nothing was done.
        InvalidArgumentError: `batch` or `threads` is out of range, or the bundle needs `tokens`.
        BackendError, StoreError: the model or Milvus failed. Rows that were written stay; run the ingest again.
        IngestInterrupted: the user pressed Ctrl-C. All encoded items are written, and the exception has the report.
        TooManyFailuresError: more items failed than `max_failures`. Encoded items are written, and the exception has the report.
    """
    options, work = _options(batch, threads, force, max_failures), work_for(kind, encoder, tokens)
    start = time.monotonic()
    opened, seen, passed = open_sources(sources, kind, reading or Reading()), set[str](), PassedOver()
    with _Total(opened, wanted=on_progress is not None) as total:
        pipeline = Pipeline(sink, work, options, on_progress, total)
        _run(pipeline, read_sources(opened, seen, passed, for_gone=prune), passed, start)
    removed = 0
    if prune and pipeline.counts.seen and not pipeline.counts.broken:  # what was listed a moment ago may be empty now
        removed = _prune(opened, seen, sink)
    return _report(pipeline.counts, removed, time.monotonic() - start, passed, pruning_skipped=prune and pipeline.counts.broken)


def ingest_items(
    items: Iterable[Item],
    *,
    sink: Sink,
    encoder: Encoder,
    kind: Kind = "image",
    tokens: TokenStore | None = None,
    batch: int = 16,
    threads: int | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Ingest items one after the other. Only a few thousand are held at a time, and at most about 160 MB of their images.

    If two items have the same uri, the last one counts. For the other arguments and the errors, see `ingest`; an item that is not
    an `Item` is an InvalidArgumentError.
    """
    options, work = _options(batch, threads, force), work_for(kind, encoder, tokens)
    start = time.monotonic()
    total = len(items) if isinstance(items, Sized) else None
    pipeline = Pipeline(sink, work, options, on_progress, lambda: total)
    _run(pipeline, items, PassedOver(), start)
    return _report(pipeline.counts, 0, time.monotonic() - start, PassedOver())


def _options(batch: int, threads: int | None, force: bool, max_failures: int | None = None) -> Options:
    batch = whole_number("batch", batch, 1, MAX_BATCH)
    check_max_failures(max_failures)
    return Options(batch, thread_count(threads, per_core=PER_CORE) if threads else None, force, max_failures)


def check_max_failures(max_failures: int | None) -> None:
    """Refuse a limit that is none."""
    if max_failures is not None:
        whole_number("max_failures", max_failures, 0, 2**63 - 1)


def _run(pipeline: Pipeline, entries: Iterable[Entry], passed: PassedOver, start: float) -> None:
    try:
        pipeline.run(entries)
    except StoreError:
        raise
    except HopelessError as exc:
        pipeline.flush()
        raise TooManyFailuresError(exc.args[0], _report(pipeline.counts, 0, time.monotonic() - start, passed)) from None
    except KeyboardInterrupt:
        pipeline.flush()
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
