"""Images, a batch at a time: threads decode them and shrink them to the bundle's pixels while the batch before is encoded.

The pixels of at most three batches are in memory, whatever the number of images.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL.Image import Image

from milvus_coop.errors import ImageError
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.scoring.inputs import ImageLike, OnError, decode, path_of
from milvus_coop.types import Array

BATCH = 16
"""Different images in a batch, as many as an ingest encodes at once."""

PLACES = 256
"""Largest number of positions in a batch. It has more positions than images where an image comes several times in a row."""

THREADS = 8

Pixels = Mapping[str, Array]
"""The pixels of one image by input name, each of shape (1, ...)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some of the images, readable ones only."""

    places: Array
    """int64 of shape (m,): positions among all images, rising."""
    rows: Array
    """int64 of shape (m,): which row of `pixels` each of these is; two positions with the same path share one."""
    pixels: Mapping[str, Array]
    """The inputs of the encoder by name, each of shape (n, ...)."""


@dataclass(slots=True)
class _Reading:
    """A batch in the making."""

    futures: list[Future[Pixels]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    """Position among all images, and in `futures`."""
    known: dict[Path, int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return len(self.futures) >= BATCH or len(self.places) >= PLACES


class Reader:
    """Reads images once. It owns threads: call `close` at the end, whatever happens.

    Args:
        encoder: of the bundle in use.
        with_ce: also read what the cross-encoder reads of an image, where that is pixels.
        on_error: is told of each image that cannot be used, which is then left out. None: the first such image is an error.
    """

    def __init__(self, encoder: Encoder, *, with_ce: bool, on_error: OnError | None = None) -> None:
        self._encoder = encoder
        self._with_ce = with_ce
        self._on_error = on_error
        self._pool = ThreadPoolExecutor(max(1, min(THREADS, os.cpu_count() or 1)), "milvus-coop-read")
        self.n_seen = 0
        """How many images were taken from the iterable so far."""

    def batches(self, images: Iterable[ImageLike]) -> Iterator[Batch]:
        """The images in their order, some at a time; a batch that has no readable image is left out.

        Raises:
            InvalidArgumentError: something is no image at all; the message has its position.
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
        """End the threads; images that they have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _submitted(self, images: Iterable[ImageLike]) -> Iterator[_Reading]:
        reading = _Reading()
        for place, image in enumerate(images):
            self.n_seen += 1
            self._submit(reading, place, image)
            if reading.is_full:
                yield reading
                reading = _Reading()
        if reading.places:
            yield reading

    def _submit(self, reading: _Reading, place: int, image: ImageLike) -> None:
        path = path_of(image, place)
        row = len(reading.futures) if path is None else reading.known.setdefault(path, len(reading.futures))
        reading.places.append((place, row))
        if row < len(reading.futures):
            return
        if path is not None:
            reading.futures.append(self._pool.submit(self._pixels, path, place))
        elif isinstance(image, bytes):
            reading.futures.append(self._pool.submit(self._pixels, image, place))
        elif not isinstance(image, str | os.PathLike):  # these have a path
            # Files and images of Pillow's are objects with a state, which may come twice or change once the caller goes on.
            done: Future[Pixels] = Future()
            try:
                done.set_result(self._pixels(image, place))
            except ImageError as exc:
                done.set_exception(exc)
            reading.futures.append(done)

    def _pixels(self, image: Path | bytes | IO[bytes] | Image, place: int) -> Pixels:
        decoded = decode(self._encoder, image, place)
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
        return Batch(places, rows, {name: np.concatenate([pixels[name] for pixels in found]) for name in found[0]})

    def _tell(self, number: int, error: ImageError, reading: _Reading) -> None:
        for place, of in reading.places:
            if of != number:
                continue
            if self._on_error is None:
                raise error
            self._on_error(place, error)
