"""The held-out stamps: chosen once by a seeded hash, kept in a committed list, and kept out of all training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from milvus_coop.training.coop_small.records import Record, normalise
from milvus_coop.training.coop_small.workspace import STAMPS_TEST_FILE
from milvus_coop.types import Array

NEAR_COPY_BITS = 6
"""Two pictures whose 64-bit perceptual hashes differ in at most this many bits count as copies of each other."""
_TEST_PICTURES = 187
_MAX_GROUP = 12
_SEED = "coop-small-1"


def read_test_ids() -> frozenset[str]:
    """The committed list of held-out record ids."""
    return frozenset(STAMPS_TEST_FILE.read_text("utf-8").split("\n")) - {""}


def choose_test_ids(stamps: Sequence[Record], hashes: Array) -> list[str]:
    """Whole groups (same caption or near-copy), in the order of a seeded hash, until about 187 pictures."""
    groups: dict[int, list[str]] = {}
    for record, group in zip(stamps, group_records(stamps, hashes), strict=True):
        groups.setdefault(group, []).append(record.id)
    chosen: list[str] = []
    for members in sorted(groups.values(), key=lambda ids: _order(min(ids))):
        if len(members) <= _MAX_GROUP and len(chosen) + len(members) <= _TEST_PICTURES:
            chosen.extend(members)
    return sorted(chosen)


def group_records(records: Sequence[Record], hashes: Array) -> list[int]:
    """A group number per record: records share it when captions are the same or pictures near-copies, transitively."""
    parent = list(range(len(records)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first_of: dict[str, int] = {}
    for index, record in enumerate(records):
        parent[root(index)] = root(first_of.setdefault(normalise(record.caption), index))
    for left, right in np.argwhere(np.triu(hamming(hashes, hashes) <= NEAR_COPY_BITS, 1)):
        parent[root(int(left))] = root(int(right))
    return [root(index) for index in range(len(records))]


def folds(groups: Sequence[int], names: Sequence[str], count: int) -> Array:
    """A fold number per record; whole groups, about equal sizes, decided by a seeded hash. int64 of shape (n,)."""
    order = sorted(set(groups), key=lambda group: _order(names[group]))
    sizes = [0] * count
    fold_of: dict[int, int] = {}
    for group in order:
        fold_of[group] = int(np.argmin(sizes))
        sizes[fold_of[group]] += sum(1 for item in groups if item == group)
    return np.array([fold_of[group] for group in groups], dtype=np.int64)


def without_leaks(
    records: Sequence[Record], hashes: Array, held_out: Sequence[Record], held_out_hashes: Array
) -> list[tuple[int, Record]]:
    """Records that share neither caption nor picture with a held-out one; texts that equal a held-out caption are cut.

    Returns:
        pairs of the record's position in `records` and the record.
    """
    captions = {normalise(record.caption) for record in held_out}
    ids = {record.id for record in held_out}
    copies: Array = np.any(hamming(hashes, held_out_hashes) <= NEAR_COPY_BITS, axis=1)
    kept = []
    for index, record in enumerate(records):
        if record.id in ids or copies[index] or normalise(record.caption) in captions:
            continue
        texts = tuple(text for text in record.texts if normalise(text) not in captions)
        kept.append((index, Record(record.id, record.source, record.location, texts)))
    return kept


def hamming(left: Array, right: Array) -> Array:
    """Bits that differ between boolean rows (n, 64) and (m, 64): int of shape (n, m)."""
    a, b = left.astype(np.float32) * 2 - 1, right.astype(np.float32) * 2 - 1
    bits: Array = np.rint((left.shape[1] - a @ b.T) / 2).astype(np.int64)
    return bits


def part_of(caption: str, parts: int) -> int:
    """Which of `parts` a caption belongs to, by a hash: whatever else is in a data set, it stays there."""
    return int(_order(f"part/{normalise(caption)}")[:8], 16) % parts


def _order(name: str) -> str:
    return hashlib.sha256(f"{_SEED}/{name}".encode()).hexdigest()
