"""Files that no row refers to: what killed ingests and interrupted deletions leave behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from milvus_coop.store.token_store.store import Entry, TokenStore
from milvus_coop.types import Failure

HOUR_S = 3600.0
"""Younger files may belong to an ingest that has not written their rows yet; those it writes are at most minutes old."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep found. `needed + swept + young` is the number of files there were."""

    needed: int
    """Files that a row refers to."""
    swept: int
    """Files that were removed, or would be."""
    young: int
    """Files that no row refers to, but too young to be removed."""
    missing: tuple[Failure, ...]
    """Rows whose file is not there; the next ingest with `--force` writes it again."""
    damaged: tuple[Failure, ...] = ()
    """Rows whose file has another size than it should; as `missing`."""


def sweep(
    store: TokenStore, rows: Iterable[tuple[str, str]], *, older_than_s: float = HOUR_S, dry_run: bool = False
) -> SweepReport:
    """Remove the files that no row refers to, and name the rows whose file is missing or damaged.

    All files of a collection have one size, which is the one that most have: so nobody need say which bundle it was made with.

    Args:
        store: the files.
        rows: uri and key of every row; read after the files were listed, so that no row is missed.
        older_than_s: how old a file must be to be removed.
        dry_run: remove nothing.

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
    if old or lacking:  # look again: an ingest may have written a file meanwhile, also one that was a spare
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
    """The size that most files have; the larger one of two, as what is damaged is rather cut short."""
    counts = Counter(entry.n_bytes for entry in entries if entry.is_key)
    return max(counts, key=lambda n_bytes: (counts[n_bytes], n_bytes), default=0)
