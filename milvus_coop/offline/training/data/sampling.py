"""The images of each batch. They are a pure function of seed and step, so that a resumed run continues with the same batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from milvus_coop.types import Array


class Sampler:
    """Shuffles the images again for every pass, and can keep groups of look-alikes together.

    Args:
        groups: equal numbers for items that are alike on purpose, int64 (images,).
        batch: images per batch.
        seed: the seed of the shuffling.
        keep_groups: if True, a batch holds whole groups, so that its hardest negatives are one attribute away. If False, items are
            shuffled one by one.
    """

    def __init__(self, groups: Array, batch: int, seed: int, *, keep_groups: bool = False) -> None:
        self._groups = groups
        self._batch = min(batch, len(groups))
        self._seed = seed
        self._keep_groups = keep_groups
        self._pass = -1
        self._order: Array = np.zeros(0, np.int64)

    @property
    def steps(self) -> int:
        """The number of batches in one pass. Images that do not fill a batch are left out of the pass."""
        return max(1, len(self._groups) // self._batch)

    def batch(self, step: int) -> Array:
        """Positions of the images of batch `step` (counted from 0 over all passes), int64 (batch,)."""
        number, place = divmod(step, self.steps)
        if number != self._pass:
            self._order, self._pass = self._shuffled(number), number
        return self._order[place * self._batch : (place + 1) * self._batch]

    def _shuffled(self, number: int) -> Array:
        dice = np.random.default_rng((self._seed, number))
        if not self._keep_groups:
            return dice.permutation(len(self._groups))
        keys = dice.permutation(int(self._groups.max(initial=0)) + 1)  # a random rank for every group
        return np.lexsort((dice.permutation(len(self._groups)), keys[self._groups]))


def caption_choices(first: Array, images: Array, dice: np.random.Generator) -> Array:
    """One caption of each image, drawn uniformly: int64 (n,). `first` is that of `TrainingCorpus`."""
    starts, ends = first[images], first[images + 1]
    chosen: Array = starts + (dice.random(len(images)) * (ends - starts)).astype(np.int64)
    return chosen


def blocks(total: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
