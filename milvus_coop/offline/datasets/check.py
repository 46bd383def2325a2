"""A check for enough data, made before a model loads, which takes longer."""

from __future__ import annotations

from collections.abc import Iterable

from milvus_coop.errors import DatasetError
from milvus_coop.offline.datasets.items import Dataset, Split


def check(dataset: Dataset, splits: Iterable[Split], *, least: int = 2) -> None:
    """Refuse splits with too few items to compare one with another.

    Raises:
        DatasetError: names the split, how many items it has, and the first problem of the data set.
    """
    for split in splits:
        count = len(dataset.items(split))
        if count < least:
            left_out = len(dataset.problems)
            why = f"; {left_out:,} left out, first: {dataset.problems[0].place}: {dataset.problems[0].reason}" if left_out else ""
            items = "no items" if count == 0 else f"{count} item{'s' if count > 1 else ''}"
            raise DatasetError(f"--data {dataset.name}: {split} has {items}{why}", expected=f"at least {least}")
