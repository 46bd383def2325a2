"""Which drawings are trained on and which are kept for evaluation, and the rule that keeps the latter out of the former."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from milvus_coop.types import Array

TEST_LIST = Path(__file__).with_name("stamps_test.txt")
NEAR_COPY_BITS = 6
"""Two images whose 64-bit perceptual hashes differ in at most this many bits count as copies of each other."""
_LARGEST_DEV_GROUP = 12
_SEED = "coop-small-2"
_ARTICLE = re.compile(r"^(a|an|the|some)\s+")
_COSINES = np.cos(np.pi * np.outer(np.arange(8), np.arange(32) + 0.5) / 32)  # the eight slowest rows of the 32-point DCT-II


@dataclass(frozen=True)
class Record:
    """A drawing and its texts.

    `id` is `<source>/<name>`. `location` is a file below the raw folder, or the icon's name in an icon set. `texts` has the
    caption first, then weaker texts (tags, keywords).
    """

    id: str
    source: str
    location: str
    texts: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The first text."""
        return self.texts[0]


def normalise(text: str) -> str:
    """A text without case, punctuation, leading article and extra space: two captions are the same if this is the same.

    >>> normalise("A Red  kangaroo.")
    'red kangaroo'
    """
    words = re.sub(r"[^\w\s]", " ", text.lower().replace("_", " "))
    return _ARTICLE.sub("", " ".join(words.split()))


def unique_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts in their order, without empty ones and without those that `normalise` to an earlier one."""
    kept: dict[str, str] = {}
    for text in texts:
        kept.setdefault(normalise(text), " ".join(text.split()))
    kept.pop("", None)
    return tuple(kept.values())


def read_test_ids() -> frozenset[str]:
    """The ids of the held-out stamps, from the committed list."""
    return frozenset(TEST_LIST.read_text("utf-8").split("\n")) - {""}


def split_drawings(records: Sequence[Record], hashes: Array, test_ids: frozenset[str]) -> dict[str, list[Record]]:
    """Divide all drawings but those of a style that is only evaluated on.

    `test` has the held-out stamps. `dev` has about a tenth of the other stamps, in whole groups of the same caption or look.
    `train` has the rest, with `without_leaks` of both.

    Args:
        records: the drawings.
        hashes: their perceptual hashes, bool (n, 64).
        test_ids: the ids of the held-out stamps.
    """
    is_test = np.array([record.id in test_ids for record in records], dtype=bool)
    test = [record for record, held_out in zip(records, is_test, strict=True) if held_out]
    kept, hashes_kept = without_leaks(records, hashes, test, hashes[is_test])
    groups = group_records(kept, hashes_kept)
    members: dict[int, list[Record]] = {}
    for record, group in zip(kept, groups, strict=True):
        if record.source == "stamps":
            members.setdefault(group, []).append(record)
    dev_ids = {r.id for group in members.values() if len(group) <= _LARGEST_DEV_GROUP and _is_dev(group) for r in group}
    is_dev = np.array([record.id in dev_ids for record in kept], dtype=bool)
    dev = [record for record, held_out in zip(kept, is_dev, strict=True) if held_out]
    train, _ = without_leaks(kept, hashes_kept, dev, hashes_kept[is_dev])
    return {"train": train, "dev": dev, "test": test}


def without_leaks(
    records: Sequence[Record], hashes: Array, held_out: Sequence[Record], held_out_hashes: Array
) -> tuple[list[Record], Array]:
    """The records that share neither caption nor look with a held-out one, without texts that equal a held-out caption.

    Returns:
        the records and their hashes.
    """
    captions = {normalise(record.caption) for record in held_out}
    ids = {record.id for record in held_out}
    copies: Array = np.any(hamming(hashes, held_out_hashes) <= NEAR_COPY_BITS, axis=1)
    kept, positions = [], []
    for position, record in enumerate(records):
        if record.id not in ids and not copies[position] and normalise(record.caption) not in captions:
            kept.append(replace(record, texts=tuple(text for text in record.texts if normalise(text) not in captions)))
            positions.append(position)
    return kept, hashes[positions]


def group_records(records: Sequence[Record], hashes: Array) -> list[int]:
    """A group number per record: records with the same caption or look share a group, and so do their likes in turn."""
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


def perceptual_hash(image: Image.Image) -> Array:
    """64 bits of an image's shapes, bool (64,).

    They are the signs, against their median, of the lowest 8 x 8 DCT coefficients of a grey copy of 32 x 32 pixels.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    low = (_COSINES @ grey @ _COSINES.T).ravel()
    bits: Array = low > np.median(low[1:])
    return bits


def hamming(left: Array, right: Array) -> Array:
    """How many bits differ between boolean rows (n, 64) and (m, 64): int64 of shape (n, m)."""
    a, b = left.astype(np.float32) * 2 - 1, right.astype(np.float32) * 2 - 1
    bits: Array = np.rint((left.shape[1] - a @ b.T) / 2).astype(np.int64)
    return bits


def _is_dev(group: Sequence[Record]) -> bool:
    digest = hashlib.sha256(f"{_SEED}/{min(record.id for record in group)}".encode()).hexdigest()
    return int(digest[:8], 16) % 10 == 0
