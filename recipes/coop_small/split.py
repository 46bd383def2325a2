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
_DEV_PART = 10
_SEED = "coop-small-1"
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


def split_drawings(
    records: Sequence[Record], hashes: Array, test_ids: frozenset[str], style_sources: frozenset[str]
) -> dict[str, list[Record]]:
    """Divide the drawings into `train`, `dev`, `test` and `style`.

    `test` has the held-out stamps, and `style` the drawings of the sources that are never trained on. `dev` has about a tenth of
    the other stamps, in whole groups of the same caption or look. `train` has the rest `without_leaks` of test and dev, and without
    near copies of a drawing in `style`, whose captions it may share: other artists draw the same things.

    Args:
        records: the drawings.
        hashes: their perceptual hashes, bool (n, 64).
        test_ids: the ids of the held-out stamps.
        style_sources: the sources that are never trained on.
    """
    of_style = np.array([record.source in style_sources for record in records], dtype=bool)
    of_test = np.array([record.id in test_ids for record in records], dtype=bool)
    style, test = _chosen(records, of_style), _chosen(records, of_test)
    rest, rest_hashes = without_leaks(_chosen(records, ~of_style), hashes[~of_style], test, hashes[of_test])
    of_stamps = np.array([record.source == "stamps" for record in rest], dtype=bool)
    dev_ids = _choose_dev(_chosen(rest, of_stamps), rest_hashes[of_stamps])
    of_dev = np.array([record.id in dev_ids for record in rest], dtype=bool)
    dev = _chosen(rest, of_dev)
    train, train_hashes = without_leaks(rest, rest_hashes, dev, rest_hashes[of_dev])
    train = _chosen(train, ~near_copies(train_hashes, hashes[of_style]))
    return {"train": train, "dev": dev, "test": test, "style": style}


def without_leaks(
    records: Sequence[Record], hashes: Array, held_out: Sequence[Record], held_out_hashes: Array
) -> tuple[list[Record], Array]:
    """The records that share neither caption nor look with a held-out one, without texts that equal a held-out caption.

    Returns:
        the records and their hashes.
    """
    captions = {normalise(record.caption) for record in held_out}
    ids = {record.id for record in held_out}
    copies = near_copies(hashes, held_out_hashes)
    kept, positions = [], []
    for position, record in enumerate(records):
        if record.id not in ids and not copies[position] and normalise(record.caption) not in captions:
            kept.append(replace(record, texts=tuple(text for text in record.texts if normalise(text) not in captions)))
            positions.append(position)
    return kept, hashes[positions]


def group_records(records: Sequence[Record], hashes: Array) -> list[int]:
    """A group number per record: records with the same caption or look share a group, and so do their likes in turn."""
    captions = np.array([normalise(record.caption) for record in records])
    alike = (captions[:, None] == captions[None, :]) | (hamming(hashes, hashes) <= NEAR_COPY_BITS)
    groups = np.arange(len(records))
    while (lowest := np.where(alike, groups, len(records)).min(axis=1, initial=len(records))).tolist() != groups.tolist():
        groups = lowest
    return [int(group) for group in groups]


def perceptual_hash(image: Image.Image) -> Array:
    """64 bits of an image's shapes, bool (64,).

    They are the signs, against their median, of the lowest 8 x 8 DCT coefficients of a grey copy of 32 x 32 pixels.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    low = (_COSINES @ grey @ _COSINES.T).ravel()
    bits: Array = low > np.median(low[1:])
    return bits


def near_copies(hashes: Array, others: Array) -> Array:
    """Which of the images look like one of the others: bool (n,) from bool (n, 64) and (m, 64)."""
    copies: Array = np.any(hamming(hashes, others) <= NEAR_COPY_BITS, axis=1)
    return copies


def hamming(left: Array, right: Array) -> Array:
    """The number of bits that differ between boolean rows (n, 64) and (m, 64): int64 of shape (n, m)."""
    a, b = left.astype(np.float32) * 2 - 1, right.astype(np.float32) * 2 - 1
    bits: Array = np.rint((left.shape[1] - a @ b.T) / 2).astype(np.int64)
    return bits


def _chosen(records: Sequence[Record], which: Array) -> list[Record]:
    return [record for record, chosen in zip(records, which, strict=True) if chosen]


def _choose_dev(stamps: Sequence[Record], hashes: Array) -> frozenset[str]:
    """The ids of about one in ten stamps: groups whose smallest id has a hash of the right kind."""
    groups: dict[int, list[str]] = {}
    for record, group in zip(stamps, group_records(stamps, hashes), strict=True):
        groups.setdefault(group, []).append(record.id)
    return frozenset(name for names in groups.values() if _hash_of(min(names)) % _DEV_PART == 0 for name in names)


def _hash_of(name: str) -> int:
    return int(hashlib.sha256(f"{_SEED}/{name}".encode()).hexdigest()[:8], 16)
