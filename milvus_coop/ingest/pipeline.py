"""The three stages of an ingest, which run in parallel: threads read and decode, threads encode batches, and one thread writes.

The queues between the stages are bounded, so memory does not grow with the number of items.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.ingest.counts import Counts
from milvus_coop.ingest.images import bytes_held
from milvus_coop.ingest.items import Entry, Item
from milvus_coop.ingest.options import IngestOptions
from milvus_coop.ingest.sink import STAGES, Progress, Sink, Stage
from milvus_coop.ingest.work import Encoded, Ready, Work
from milvus_coop.types import Failure, Row, Stamp

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
T = TypeVar("T")
Timed = tuple[T, float]
"""A result, and the seconds that it took."""

LOOKUP = 1024
"""Number of items whose stamps are read in one call while earlier items are ingested. A server takes 0.3 s for a call."""

LOOKUP_BYTES = 32 * 2**20
"""Maximum size of the images that such a call's items hold in memory, unless a single item holds more."""

DECODE_BYTES = 64 * 2**20
"""Maximum size of the images that are held in memory while they are decoded or wait for it, unless a single one is larger."""

WRITE = 128
"""Minimum number of rows of one write during an ingest. An ingest that is killed loses at most two writes."""

WRITES_WAITING = 2

HURRY_S = 5.0
"""Time without a write after which items are encoded and written although they fill no batch: their source is slow."""

CHUNK_S = 0.5
"""Time after which a chunk of items for the lookup is not filled further."""

SAVES_WAITING = 2
"""Number of batches whose token files wait to be written."""

REPORT_EVERY_S = 0.1


class Pipeline:
    """One run of an ingest. It owns threads: always call `stop` at the end.

    The encoder runs `runs` times at once; the runs share a batch.
    """

    def __init__(
        self,
        sink: Sink,
        work: Work,
        options: IngestOptions,
        on_progress: Callable[[Progress], None] | None = None,
        total: Callable[[], int | None] = lambda: None,
        *,
        runs: int = 1,
    ) -> None:
        self.counts = Counts()
        self._sink = sink
        self._work = work
        self._options = options
        self._on_progress = on_progress
        self._total = total
        self._runs = runs
        self._batch = -(-options.batch // runs)
        self._reported = 0.0
        self._decoders = ThreadPoolExecutor(options.decoders, "milvus-coop-decode")
        self._lookup = ThreadPoolExecutor(1, "milvus-coop-lookup")
        self._encoders = ThreadPoolExecutor(runs, "milvus-coop-encode")
        self._writer = ThreadPoolExecutor(1, "milvus-coop-write")
        self._decoding: deque[tuple[Future[Timed[Ready | Failure | None]], int]] = deque()
        self._held = 0
        self._encoding: deque[tuple[Future[Timed[Encoded]], list[Ready]]] = deque()
        self._saving: deque[tuple[Future[Timed[object]], list[tuple[Row, bool]]]] = deque()
        self._writing: deque[tuple[Future[Timed[object]], int, int]] = deque()
        self._ready: list[Ready] = []
        self._renewals: list[Ready] = []
        self._renewing: deque[tuple[Future[Timed[Set[str]]], list[Ready]]] = deque()
        self._wrote = time.monotonic()
        self._rows: list[tuple[Row, bool]] = []

    def run(self, entries: Iterable[Entry]) -> None:
        """Ingest all items.

        Raises:
            BackendError, StoreError: the model or the store failed; this is the first error. Rows that were written before it stay.
            HopelessError: too many items failed.
        """
        window = 2 * self._options.batch + self._options.decoders
        for future, n_bytes in self._submitted(entries):
            self._decoding.append((future, n_bytes))
            self._held += n_bytes
            while len(self._decoding) >= window or self._held > DECODE_BYTES:
                self._take()
            if time.monotonic() - self._wrote >= HURRY_S:
                self._hurry()
            self._report_now_and_then()
        while self._decoding or self._renewals or self._renewing:
            while self._decoding:
                self._take()
            self._renew(at_least=1)
            while self._renewing:
                self._renewed()
        self._encode()
        while self._encoding:
            self._encoded()
        self.flush()
        self.report()

    def flush(self) -> None:
        """Write all encoded rows, and wait until they are written. Batches that are not begun or cannot be encoded are dropped."""
        while self._encoding:
            future, _ = self._encoding[0]
            if future.cancel() or future.exception() is not None:
                self._encoding.popleft()
            else:
                self._encoded()
        while self._saving:
            self._saved()
        self._write(at_least=1)
        while self._writing:
            self._written()
        while self._renewing:
            self._renewed()
        self._spend("write", self._writer.submit(timed, self._sink.settle).result())

    def stop(self) -> None:
        """Stop the threads. Work that they have not started is dropped."""
        self._decoders.shutdown(cancel_futures=True)
        self._lookup.shutdown(cancel_futures=True)
        self._encoders.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)

    def report(self) -> None:
        """Report the progress now."""
        self._reported = time.monotonic()
        threads: dict[Stage, int] = {"read": self._options.decoders, "encode": self._runs}
        for stage in STAGES:
            self.counts.available_s[stage] = threads.get(stage, 1) * (self._reported - self.counts.started)
        if self._on_progress:
            self._on_progress(self.counts.progress(self._total()))

    def _spend(self, stage: Stage, done: Timed[T]) -> T:
        """The result of a call, whose time counts for the stage."""
        result, seconds = done
        self.counts.seconds[stage] += seconds
        return result

    def _submitted(self, entries: Iterable[Entry]) -> Iterator[tuple[Future[Timed[Ready | Failure | None]], int]]:
        """Items whose decoding has begun, each with the bytes that it holds until then."""
        for items, stamps in self._looked_up(entries):
            known = self._spend("lookup", stamps.result())
            for item in items:
                future = self._decoders.submit(timed, self._work.prepare, item, known.get(item.id), self._options.force)
                yield future, bytes_held(item.image)

    def _looked_up(self, entries: Iterable[Entry]) -> Iterator[tuple[list[Item], Future[Timed[Mapping[str, Stamp]]]]]:
        """Chunks of items with their stamps in the collection. The stamps of the next chunk are read ahead."""
        ahead: deque[tuple[list[Item], Future[Timed[Mapping[str, Stamp]]]]] = deque()
        coming = _chunks(entries)
        while chunk := self._spend("sources", timed(next, coming, [])):
            # An item that comes twice is written once, because Milvus does not replace rows of the same upsert.
            items = list({entry.id: entry for entry in chunk if isinstance(entry, Item)}.values())
            failures = [entry for entry in chunk if isinstance(entry, Failure)]
            self.counts.seen += len(items) + len(failures)
            self.counts.failures += failures
            self.counts.broken |= bool(failures)
            self.counts.check(self._options.max_failures)
            ahead.append((items, self._lookup.submit(timed, self._sink.stamps, [item.id for item in items])))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead

    def _take(self) -> None:
        future, n_bytes = self._decoding.popleft()
        result = self._spend("read", future.result())
        self._held -= n_bytes
        if result is None:
            self.counts.unchanged += 1
        elif isinstance(result, Failure):
            self.counts.failures.append(result)
        elif not result.same_metadata and (reason := self._sink.refusal(result.item.metadata)):
            self.counts.failures.append(Failure(result.item.uri, reason))
        elif result.renews:
            self._renewals.append(result)
            self._renew(at_least=WRITE)
        else:
            self._ready.append(result)
            if len(self._ready) >= self._batch:
                self._encode()
        self._report_now_and_then()
        self.counts.check(self._options.max_failures)

    def _report_now_and_then(self) -> None:
        if time.monotonic() - self._reported >= REPORT_EVERY_S:
            self.report()

    def _hurry(self) -> None:
        """Encode and write what is there. While the encoder works, its next batch may still be filled."""
        while self._decoding and self._decoding[0][0].done():
            self._take()
        while self._encoding and self._encoding[0][0].done():
            self._encoded()
        if not self._encoding:
            self._encode()
        self._renew(at_least=1)
        self._write(at_least=1)

    def _renew(self, at_least: int) -> None:
        """Give rows of the collection the stamps and the metadata of their items."""
        if len(self._renewals) < at_least:
            return
        items, self._renewals = self._renewals, []
        self._wrote = time.monotonic()
        self._renewing.append((self._writer.submit(timed, self._write_renewed, items), items))
        while len(self._renewing) > WRITES_WAITING or (self._renewing and self._renewing[0][0].done()):
            self._renewed()

    def _write_renewed(self, items: Sequence[Ready]) -> Set[str]:
        """Write the rows of these items; the ids of those that were written. A row with other content by now is left as it is."""
        rows = self._sink.rows([ready.item.id for ready in items])
        renewed = [ready.renewed(rows[ready.item.id]) for ready in items if ready.is_of(rows.get(ready.item.id))]
        if renewed:
            self._sink.upsert(renewed)
        return {row.id for row in renewed}

    def _renewed(self) -> None:
        future, items = self._renewing[0]
        written = self._spend("write", future.result())
        self._renewing.popleft()
        for ready in items:
            if ready.same_metadata:
                self.counts.unchanged += 1
            elif ready.item.id in written:
                self.counts.updated += 1
            else:
                self._decoding.append((self._decoders.submit(timed, self._prepare_again, ready), bytes_held(ready.item.image)))
                self._held += self._decoding[-1][1]

    def _prepare_again(self, ready: Ready) -> Ready | Failure | None:
        again = self._work.prepare(ready.item, None, True)
        return replace(again, known=True) if isinstance(again, Ready) else again

    def _encode(self) -> None:
        """Hand the items that are ready to the encoder. One part of a batch more than it runs may wait, so that no run does."""
        if not self._ready:
            return
        ready, self._ready = self._ready, []
        self._encoding.append((self._encoders.submit(timed, self._work.encode, ready), ready))
        while len(self._encoding) > self._runs or (self._encoding and self._encoding[0][0].done()):
            self._encoded()

    def _encoded(self) -> None:
        """Take the rows of the next batch. Those that name token files wait until the files are written."""
        future, ready = self._encoding[0]
        encoded = self._spend("encode", future.result())
        self._encoding.popleft()
        self.counts.failures += [row for row in encoded.rows if isinstance(row, Failure)]
        rows = [(row, item.known) for row, item in zip(encoded.rows, ready, strict=True) if isinstance(row, Row)]
        if encoded.save is None:
            self._rows += rows
            self._write(at_least=WRITE)
            return
        self._saving.append((self._writer.submit(timed, encoded.save), rows))
        while len(self._saving) > SAVES_WAITING or (self._saving and self._saving[0][0].done()):
            self._saved()

    def _saved(self) -> None:
        future, rows = self._saving[0]
        self._spend("write", future.result())
        self._saving.popleft()
        self._rows += rows
        self._write(at_least=WRITE)

    def _write(self, at_least: int) -> None:
        if len(self._rows) < at_least:
            return
        rows, self._rows = self._rows, []
        self._wrote = time.monotonic()
        added = len({row.id for row, is_known in rows if not is_known})
        last = {row.id: row for row, _ in rows}
        # An insert has to be checked afterwards, which pays only for many rows.
        write = self._sink.upsert if added < len(rows) or len(rows) < WRITE else self._sink.insert
        self._writing.append((self._writer.submit(timed, write, list(last.values())), added, len(rows) - added))
        while len(self._writing) > WRITES_WAITING or (self._writing and self._writing[0][0].done()):
            self._written()

    def _written(self) -> None:
        future, added, updated = self._writing[0]
        self._spend("write", future.result())
        self._writing.popleft()
        self.counts.added += added
        self.counts.updated += updated


def timed(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Timed[T]:
    """The result of a call, and the seconds that it took."""
    start = time.perf_counter()
    result = call(*args, **kwargs)
    return result, time.perf_counter() - start


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """The entries in lists that are limited in length, in bytes of images, and in the time until they are complete."""
    chunk: list[Entry] = []
    n_bytes, began = 0, time.monotonic()
    for entry in entries:
        if not isinstance(entry, Entry):
            raise InvalidArgumentError(f"an item is of type {type(entry).__name__}", expected="Item")
        held = bytes_held(entry.image) if isinstance(entry, Item) else 0
        if chunk and (len(chunk) >= LOOKUP or n_bytes + held > LOOKUP_BYTES or time.monotonic() - began > CHUNK_S):
            yield chunk
            chunk, n_bytes = [], 0
        began = began if chunk else time.monotonic()
        chunk.append(entry)
        n_bytes += held
    if chunk:
        yield chunk
