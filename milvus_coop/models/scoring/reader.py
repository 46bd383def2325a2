"""Reads images in batches: threads decode images and shrink them to the bundle's pixels while the previous batch is encoded.

At most three batches of pixels are in memory, whatever the number of images.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from milvus_coop.cores import available_cores
from milvus_coop.errors import ImageError
from milvus_coop.models.encoder import Encoder, Pixels, join_pixels
from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.models.scoring.inputs import OnError, name_of
from milvus_coop.types import Array

BATCH = 16
"""Maximum number of different images in a batch, the same as in an ingest."""

PLACES = 256
"""Maximum number of positions in a batch. A batch has more positions than images if an image is repeated several times in a row."""

THREADS = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of readable images."""

    places: Array
    """Positions among all images, ascending; int64 of shape (m,)."""
    rows: Array
    """The row of `pixels` for each position; int64 of shape (m,). Two positions with the same path share a row."""
    pixels: Mapping[str, Array]
    """The inputs of the encoder by name, each of shape (n, ...)."""


@dataclass(slots=True)
class _Reading:
    """A batch that is being read."""

    futures: list[Future[Pixels]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of a position among all images and a position in `futures`."""
    known: dict[str, int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return len(self.futures) >= BATCH or len(self.places) >= PLACES


class Reader:
    """Reads images once. It owns threads: always call `close` at the end.

    Args:
        encoder: the encoder of the bundle in use.
        with_ce: also make the pixels for the cross-encoder, if it reads pixels.
        on_error: a function that is called for each image that cannot be used; such images are left out. None: the first such
            image raises an error.
    """

    def __init__(self, encoder: Encoder, *, with_ce: bool, on_error: OnError | None = None) -> None:
        self._encoder = encoder
        self._with_ce = with_ce
        self._on_error = on_error
        self._pool = ThreadPoolExecutor(max(1, min(THREADS, available_cores())), "milvus-coop-read")
        self.n_seen = 0
        """Number of images taken from the iterable so far."""

    def batches(self, images: Iterable[ImageInput]) -> Iterator[Batch]:
        """The images in batches, in their order. A batch without a readable image is left out.

        Raises:
            InvalidArgumentError: an element has a type that cannot be an image; the message has its position.
            ImageError: an image cannot be used, and there is no `on_error`; the message has its position, and its path if any.
        """
        ahead: deque[_Reading] = deque()
        for reading in self._submitted(images):
            ahead.append(reading)
            if len(ahead) > 1 and (batch := self._read(ahead.popleft())) is not None:
                yield batch
        if ahead and (batch := self._read(ahead.popleft())) is not None:
            yield batch

    def close(self) -> None:
        """Stop the threads. Images that they have not started to read are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _submitted(self, images: Iterable[ImageInput]) -> Iterator[_Reading]:
        reading = _Reading()
        for place, image in enumerate(images):
            self.n_seen += 1
            self._submit(reading, place, image)
            if reading.is_full:
                yield reading
                reading = _Reading()
        if reading.places:
            yield reading

    def _submit(self, reading: _Reading, place: int, image: ImageInput) -> None:
        path = os.fspath(image) if isinstance(image, str | os.PathLike) else None
        row = len(reading.futures) if path is None else reading.known.setdefault(path, len(reading.futures))
        reading.places.append((place, row))
        if row < len(reading.futures):
            return
        if path is not None:
            reading.futures.append(self._pool.submit(self._pixels, path, place))
        elif isinstance(image, bytes | bytearray | memoryview):
            reading.futures.append(self._pool.submit(self._pixels, bytes(image), place))
        else:
            # Open files and Pillow images have a state: they may be repeated, or change when the caller goes on. So read them now.
            done: Future[Pixels] = Future()
            try:
                done.set_result(self._pixels(image, place))
            except ImageError as exc:
                done.set_exception(exc)
            reading.futures.append(done)

    def _pixels(self, image: ImageInput, place: int) -> Pixels:
        decoded = self._encoder.decode(image, name=name_of(image, place))
        pixels = self._encoder.pixels([decoded])
        return {**pixels, **self._encoder.ce_pixels([decoded])} if self._with_ce else pixels

    def _read(self, reading: _Reading) -> Batch | None:
        found: list[Pixels] = []
        row_of: dict[int, int] = {}
        for number, future in enumerate(reading.futures):
            try:
                pixels = future.result()
            except ImageError as exc:
                self._tell(number, exc, reading)
            else:
                row_of[number] = len(found)
                found.append(pixels)
        kept = [(place, row_of[number]) for place, number in reading.places if number in row_of]
        if not kept:
            return None
        places, rows = np.array(kept, dtype=np.int64).T
        return Batch(places, rows, join_pixels(found))

    def _tell(self, number: int, error: ImageError, reading: _Reading) -> None:
        for place, of in reading.places:
            if of != number:
                continue
            if self._on_error is None:
                raise error
            self._on_error(place, error)
