"""The input of a network for each image: pixels, or the cached features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from milvus_coop.bundle.spec import ImageSpec
from milvus_coop.errors import ImageError
from milvus_coop.models.preprocess.images import decode, to_pixels
from milvus_coop.offline.datasets import CaptionedImage, DataProblem, Dataset
from milvus_coop.types import Array


class FetchedImages(NamedTuple):
    """Some images, as arrays."""

    visual: Array
    """uint8 pixels (n, 3, S, S) or float16 features (n, cells, F)."""
    usable: Array
    """bool (n,), False where the image could not be read. Such a row means nothing."""


class Visuals(Protocol):
    """A source of images by position."""

    def __len__(self) -> int:
        """The number of images."""

    def fetch(self, positions: Array) -> FetchedImages:
        """The images at `positions`, int64 (n,)."""


class Pixels:
    """Opens images when they are asked for. An image that cannot be read is reported each time, and is not usable."""

    def __init__(
        self,
        dataset: Dataset,
        items: Sequence[CaptionedImage],
        spec: ImageSpec,
        pool: ThreadPoolExecutor,
        report: Callable[[DataProblem], None],
    ) -> None:
        self._dataset, self._items, self._spec, self._pool, self._report = dataset, items, spec, pool, report

    def __len__(self) -> int:
        return len(self._items)

    def fetch(self, positions: Array) -> FetchedImages:
        """Decode in threads."""
        images = list(self._pool.map(self._open, (self._items[position] for position in positions)))
        blank = np.zeros((3, self._spec.size, self._spec.size), np.uint8)
        usable = np.array([image is not None for image in images], dtype=bool)
        stacked = np.stack([blank if image is None else image for image in images]) if images else blank[None][:0]
        return FetchedImages(stacked, usable)

    def _open(self, item: CaptionedImage) -> Array | None:
        try:
            return item_pixels(self._dataset, item, self._spec)
        except ImageError as exc:
            self._report(DataProblem(item.id, str(exc)))
            return None


def item_pixels(dataset: Dataset, item: CaptionedImage, spec: ImageSpec) -> Array:
    """An image as `Encoder` prepares it, uint8 (3, S, S). Large JPEGs are decoded at a fraction of their size.

    Raises:
        ImageError: the file cannot be read.
    """
    image = dataset.open(item) if item.path is None else decode(item.path, at_least=spec.size, background=spec.background)
    return to_pixels(image, spec)
