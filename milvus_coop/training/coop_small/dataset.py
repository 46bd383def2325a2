"""Everything the training reads, in arrays: features of pictures, vectors of texts, who is held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from milvus_coop.training.coop_small.features import feature_file
from milvus_coop.training.coop_small.records import Record, normalise, read_records
from milvus_coop.training.coop_small.split import folds, group_records, read_test_ids, without_leaks
from milvus_coop.training.coop_small.text_features import TextTable
from milvus_coop.training.coop_small.towers import Tagger
from milvus_coop.training.coop_small.workspace import Workspace
from milvus_coop.training.efficientnet_lite import Variant
from milvus_coop.types import Array

_CHUNK = 256


@dataclass(frozen=True)
class Dataset:
    """Aligned over pictures (n of them); `texts` holds every text once.

    `pooled` float32 (n, 1280); the tagger's `tags` (n, 384) and `rows` (n, 24, 64), float32, and `cells` (n, 16, 256), float16;
    `hashes` bool (n, 64).
    """

    records: list[Record]
    pooled: Array
    tags: Array
    rows: Array
    cells: Array
    hashes: Array
    texts: TextTable

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def sources(self) -> Array:
        """Source name per picture."""
        return np.array([record.source for record in self.records])

    @cached_property
    def labels(self) -> Array:
        """A number per distinct normalised caption, int64 (n,)."""
        _, numbers = np.unique([normalise(record.caption) for record in self.records], return_inverse=True)
        return numbers.astype(np.int64)

    @cached_property
    def caption_rows(self) -> Array:
        """Row of each picture's caption in `texts`, int64 (n,)."""
        return self.texts.rows([record.caption for record in self.records])

    def where(self, keep: Callable[[Record], bool]) -> Array:
        """Positions of the records that `keep` accepts, int64."""
        return np.array([index for index, record in enumerate(self.records) if keep(record)], dtype=np.int64)

    def select(self, positions: Array, records: Sequence[Record] | None = None) -> Dataset:
        """The pictures at `positions`, with `records` in place of theirs where texts were cut."""
        chosen = list(records) if records is not None else [self.records[index] for index in positions]
        return Dataset(
            chosen,
            self.pooled[positions],
            self.tags[positions],
            self.rows[positions],
            self.cells[positions],
            self.hashes[positions],
            self.texts,
        )

    def train_without(self, held_out: Dataset) -> Dataset:
        """The pictures that share neither caption nor look with a held-out one (see `split.without_leaks`)."""
        kept = without_leaks(self.records, self.hashes, held_out.records, held_out.hashes)
        return self.select(np.array([index for index, _ in kept], dtype=np.int64), [record for _, record in kept])


def load_dataset(workspace: Workspace, variant: Variant, tagger: Tagger, texts: TextTable) -> Dataset:
    """Read the cached features of every record, in the order of the records file, and let the tagger read them."""
    folder = workspace.features / variant
    records = read_records(workspace.root / "records.jsonl")
    sources = list(dict.fromkeys(record.source for record in records))
    pooled, hashes, tags, rows, compressed = [], [], [], [], []
    for source in sources:
        features, cells, bits = (np.load(feature_file(folder, source, name)) for name in ("pooled", "cells", "hash"))
        pooled.append(features.astype(np.float32))
        hashes.append(bits)
        with torch.no_grad():
            for start in range(0, len(features), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                words = tagger(torch.from_numpy(features[chunk]).float(), torch.from_numpy(cells[chunk]).float())
                tags.append(words.tags.numpy())
                rows.append(words.rows.numpy())
                compressed.append(words.cells.numpy().astype(np.float16))
    joined = [np.concatenate(parts) for parts in (pooled, tags, rows, compressed, hashes)]
    return Dataset(records, joined[0], joined[1], joined[2], joined[3], joined[4], texts)


def trainable_records(workspace: Workspace, variant: Variant) -> list[Record]:
    """The records that share neither caption nor look with a held-out stamp."""
    folder, records = workspace.features / variant, read_records(workspace.root / "records.jsonl")
    sources = dict.fromkeys(record.source for record in records)
    hashes = np.concatenate([np.load(feature_file(folder, source, "hash")) for source in sources])
    test_ids = read_test_ids()
    test = [index for index, record in enumerate(records) if record.id in test_ids]
    return [record for _, record in without_leaks(records, hashes, [records[index] for index in test], hashes[test])]


def split_test(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """(everything that may be trained on, the held-out stamps)."""
    test_ids = read_test_ids()
    test = dataset.select(dataset.where(lambda record: record.id in test_ids))
    return dataset.train_without(test), test


def stamp_folds(dataset: Dataset, count: int) -> list[Dataset]:
    """The stamps of `dataset` in `count` folds, captions and near-copies never torn apart."""
    stamps = dataset.select(dataset.where(lambda record: record.source == "stamps"))
    groups = group_records(stamps.records, stamps.hashes)
    numbers = folds(groups, [record.id for record in stamps.records], count)
    return [stamps.select(np.flatnonzero(numbers == fold)) for fold in range(count)]
