"""Files that no row refers to: what killed ingests and interrupted deletions leave behind."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from milvus_coop.token_store.store import TokenStore
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


def sweep(
    store: TokenStore, rows: Iterable[tuple[str, str]], *, older_than_s: float = HOUR_S, dry_run: bool = False
) -> SweepReport:
    """Remove the files that no row refers to.

    Args:
        store: the files.
        rows: uri and key of every row; read after the files were listed, so that no row is missed.
        older_than_s: how old a file must be to be removed.
        dry_run: remove nothing.

    Raises:
        TokenStoreError, StoreError: the files or the rows cannot be read.
    """
    entries = list(store.entries())
    names = {entry.name for entry in entries}
    needed: set[str] = set()
    lacking: list[tuple[str, str]] = []
    for uri, key in rows:
        needed.add(key)
        if key not in names:
            lacking.append((uri, key))
    spare = [entry for entry in entries if entry.name not in needed]
    old = [entry.name for entry in spare if entry.written_s <= time.time() - older_than_s]
    if old or lacking:  # look again: an ingest may have written a file meanwhile, also one that was a spare
        now = {entry.name: entry.written_s for entry in store.entries()}
        old = [entry.name for entry in spare if entry.name in old and now.get(entry.name) == entry.written_s]
        names = set(now)
    if not dry_run:
        store.remove(old)
    missing = tuple(Failure(uri, "its token file is missing") for uri, key in lacking if key not in names)
    return SweepReport(len(names & needed), len(old), len(spare) - len(old), missing)
