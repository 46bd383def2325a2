"""Sweep: remove token files that no row refers to. Killed ingests and interrupted deletions leave such files behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from milvus_coop.store.token_store.store import Entry, TokenStore
from milvus_coop.types import Failure

HOUR_S = 3600.0
"""Default minimum age of removed files. A younger file may belong to a running ingest, which writes the rows minutes later."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """The result of a sweep. `needed + swept + young` is the number of files before the sweep."""

    needed: int
    """Number of files that a row refers to."""
    swept: int
    """Number of files that were removed, or that would be removed without `dry_run`."""
    young: int
    """Number of files that no row refers to and that are too young to be removed."""
    missing: tuple[Failure, ...]
    """Rows whose file is missing; the next ingest with `--force` writes it again."""
    damaged: tuple[Failure, ...] = ()
    """Rows whose file has the wrong size; the next ingest with `--force` writes it again."""


def sweep(
    store: TokenStore, rows: Iterable[tuple[str, str]], *, older_than_s: float = HOUR_S, dry_run: bool = False
) -> SweepReport:
    """Remove the files that no row refers to, and report the rows whose file is missing or damaged.

    All intact files of a collection have the same size. It is taken to be the most frequent size, so that the bundle is not needed.

    Args:
        store: the files.
        rows: uri and key of every row. They are read after the files were listed, so that no row is missed.
        older_than_s: minimum age of a removed file in seconds.
        dry_run: only report, and remove nothing.

    Raises:
        TokenStoreError, StoreError: the files or the rows cannot be read.
    """
    entries = list(store.entries())
    n_bytes = _usual_size(entries)
    sound = {entry.name for entry in entries if entry.n_bytes == n_bytes}
    needed: set[str] = set()
    lacking: list[tuple[str, str]] = []
    for uri, key in rows:
        needed.add(key)
        if key not in sound:
            lacking.append((uri, key))
    spare = [entry for entry in entries if entry.name not in needed]
    before_s = time.time() - older_than_s
    old = [entry.name for entry in spare if entry.written_s <= before_s]
    if old or lacking:  # list the files again: meanwhile an ingest may have written one, even one that was spare before
        entries = list(store.entries())
        written_s = {entry.name: entry.written_s for entry in entries}
        old = [entry.name for entry in spare if entry.name in old and written_s.get(entry.name) == entry.written_s]
    sizes = {entry.name: entry.n_bytes for entry in entries}
    swept = len(old) if dry_run else store.remove_older(old, before_s)
    missing = tuple(Failure(uri, "its token file is missing") for uri, key in lacking if key not in sizes)
    damaged = tuple(
        Failure(uri, f"its token file has {sizes[key]} bytes instead of {n_bytes}")
        for uri, key in lacking
        if sizes.get(key, n_bytes) != n_bytes
    )
    return SweepReport(len(sizes.keys() & needed), swept, len(spare) - swept, missing, damaged)


def _usual_size(entries: Iterable[Entry]) -> int:
    """The most frequent file size; of two equally frequent sizes the larger one, because damaged files are usually truncated."""
    counts = Counter(entry.n_bytes for entry in entries if entry.is_key)
    return max(counts, key=lambda n_bytes: (counts[n_bytes], n_bytes), default=0)
