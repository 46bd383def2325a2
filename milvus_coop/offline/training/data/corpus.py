"""One split of a data set as arrays: captions as token ids, and the image of each caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.datasets import CaptionedImage
from milvus_coop.types import Array

_TEXTS = 4096
"""Number of texts that are tokenised at a time."""


@dataclass(frozen=True)
class TrainingCorpus:
    """The images of a split, and all their captions one after another."""

    items: Sequence[CaptionedImage]
    texts: Sequence[str]
    """The captions, in the order of the items."""
    input_ids: Array
    """Token ids, int32 (captions, T), padded to the longest caption."""
    lengths: Array
    """Number of tokens of each caption, int64 (captions,)."""
    owner: Array
    """Position of each caption's image, int64 (captions,), in ascending order."""

    @cached_property
    def first(self) -> Array:
        """Position of each image's first caption, and one past the last: int64 (images + 1,)."""
        return np.searchsorted(self.owner, np.arange(len(self.items) + 1))

    @cached_property
    def label(self) -> Array:
        """Equal numbers for equal texts (but for case and surrounding space), int64 (captions,)."""
        return np.unique([text.casefold() for text in self.texts], return_inverse=True)[1].astype(np.int64)

    @cached_property
    def group(self) -> Array:
        """Equal numbers for items that are alike on purpose, int64 (images,). An item in no group has a number of its own."""
        names = [item.group or f"\0{position}" for position, item in enumerate(self.items)]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def tokens(self, captions: Array) -> tuple[Array, Array]:
        """Token ids and attention mask of some captions: int64 (n, T) twice, cut to the longest of them."""
        lengths = self.lengths[captions]
        longest = int(lengths.max(initial=1))
        mask = np.arange(longest) < lengths[:, None]
        return self.input_ids[captions, :longest].astype(np.int64), mask.astype(np.int64)

    def same(self, captions: Array, images: Array) -> Array:
        """True where caption and image are not negatives of each other: bool (captions, images).

        True for an image's own captions (Geigle et al. mask these), and for captions with the same text as one of those.
        """
        matches: Array = (self.label[captions][:, None, None] == self._own_labels(images)[None]).any(2)
        return matches

    def right(self, captions: Array, images: Array) -> Array:
        """True where caption i is right for image i, as in `same`: bool (n,)."""
        matches: Array = (self.label[captions][:, None] == self._own_labels(images)).any(1)
        return matches

    def _own_labels(self, images: Array) -> Array:
        """Labels of each image's captions, filled with -1 to the maximum number of captions: int64 (images, n)."""
        first, end = self.first[images], self.first[images + 1]
        places = first[:, None] + np.arange(int((end - first).max(initial=1)))
        return np.where(places < end[:, None], self.label[np.minimum(places, len(self.label) - 1)], -1)


def tokenise(items: Sequence[CaptionedImage], tokenizer: Tokenizer) -> TrainingCorpus:
    """Tokenise every caption of `items`."""
    texts = [caption.text for item in items for caption in item.captions]
    owner = np.repeat(np.arange(len(items)), [len(item.captions) for item in items])
    parts = [tokenizer(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
    lengths = np.concatenate([part["attention_mask"].sum(1) for part in parts]) if parts else np.zeros(0, np.int64)
    ids = np.zeros((len(texts), int(lengths.max(initial=1))), np.int32)
    for start, part in zip(range(0, len(texts), _TEXTS), parts, strict=True):
        width = min(part["input_ids"].shape[1], ids.shape[1])
        ids[start : start + len(part["input_ids"]), :width] = part["input_ids"][:, :width]
    return TrainingCorpus(items, texts, ids, lengths, owner)
