"""Cached features: a frozen backbone runs once over every image, and its output is kept on disk in shards.

The name of a shard depends on its sources (backbone, items, sizes and times of their files). So after a changed image, another
backbone or a killed run, only the shards concerned are computed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from milvus_coop.offline.datasets import CaptionedImage, Dataset
from milvus_coop.offline.export.graphs import open_session, run_graph, to_onnx
from milvus_coop.offline.training.data.visuals import FetchedImages, Visuals
from milvus_coop.offline.training.networks.vision import Vision
from milvus_coop.types import Array

SHARD = 1024
"""Images per file."""
_BATCH = 32
_LARGEST = float(np.finfo(np.float16).max)


class CachedFeatures:
    """Features (images, cells, F), float16, memory-mapped. Rows of unreadable images are NaN."""

    def __init__(self, shards: Sequence[Path], count: int, shard: int = SHARD) -> None:
        self._shards = [np.load(path, mmap_mode="r") for path in shards]
        self._count, self._shard = count, shard

    def __len__(self) -> int:
        return self._count

    def fetch(self, positions: Array) -> FetchedImages:
        """Copy rows out of the files."""
        rows = [self._shards[position // self._shard][position % self._shard] for position in positions.tolist()]
        visual = np.stack(rows) if rows else np.zeros((0, *self._shards[0].shape[1:]), np.float16)
        return FetchedImages(visual, ~np.isnan(visual[:, 0, 0]))


class FeatureCache:
    """Finds the features of one backbone on disk, or computes them. `shard` is the number of images per file."""

    def __init__(self, folder: Path, vision: Vision, device: torch.device, threads: int, shard: int = SHARD) -> None:
        self._key = vision_key(vision)
        self._folder = folder / self._key[:16]
        self._vision = vision
        self._device = device
        self._threads = threads
        self._shard = shard
        self._run: Callable[[Array], Array] | None = None

    def features(
        self, dataset: Dataset, items: Sequence[CaptionedImage], pixels: Visuals, on_images: Callable[[int], None] | None = None
    ) -> CachedFeatures:
        """The features of `items`. Features that are not on disk are computed from `pixels` and written.

        Args:
            dataset: the data set. Its name tells drawn images of different data sets apart.
            items: n items.
            pixels: the pixels of the same items. Images that could not be read before are asked for again, to report them.
            on_images: called with the number of images done after each batch.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        shards = []
        for start in range(0, len(items), self._shard):
            positions = np.arange(start, min(start + self._shard, len(items)))
            path = self._folder / f"{self._shard_key(dataset, [items[i] for i in positions.tolist()], pixels, start)}.npy"
            unread = _unread(path)
            if not path.is_file():
                values = self._compute(pixels, positions, on_images)
                missing = np.flatnonzero(np.isnan(values[:, 0, 0]))
                if len(missing):
                    _save(missing, unread)
                _save(values, path)
            else:
                if unread.is_file():
                    pixels.fetch(positions[np.load(unread)])
                if on_images is not None:
                    on_images(len(positions))
            shards.append(path)
        return CachedFeatures(shards, len(items), self._shard)

    def _compute(self, pixels: Visuals, positions: Array, on_images: Callable[[int], None] | None) -> Array:
        self._run = self._run or _runner(self._vision, self._device, self._threads)
        parts = []
        for start in range(0, len(positions), _BATCH):
            seen = pixels.fetch(positions[start : start + _BATCH])
            features = self._run(seen.visual)
            features[~seen.usable] = np.nan
            parts.append(np.clip(features, -_LARGEST, _LARGEST).astype(np.float16))
            if on_images is not None:
                on_images(len(seen.usable))
        return np.concatenate(parts)

    def _shard_key(self, dataset: Dataset, items: Sequence[CaptionedImage], pixels: Visuals, start: int) -> str:
        digest = hashlib.sha256(dataset.name.encode())
        if items[0].path is None:  # a drawn image, which another version may draw differently
            digest.update(pixels.fetch(np.array([start])).visual.tobytes())
        for item in items:
            digest.update(f"\n{item.id}".encode())
            if item.path is not None and item.path.is_file():
                stat = item.path.stat()
                digest.update(f"|{item.path}|{stat.st_size}|{stat.st_mtime_ns}".encode())
        return digest.hexdigest()[:32]


def _unread(path: Path) -> Path:
    """The file with the positions of a shard's unreadable images."""
    return path.with_suffix(".unread.npy")


def _save(values: Array, path: Path) -> None:
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npy")
    np.save(partial, values)
    partial.replace(path)


def vision_key(vision: Vision) -> str:
    """A hash of a backbone's configuration and weights."""
    digest = hashlib.sha256(repr(vision.config).encode())
    for name, value in sorted(vision.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _runner(vision: Vision, device: torch.device, threads: int) -> Callable[[Array], Array]:
    """A function that runs the backbone. On a CPU it uses ONNX Runtime, whose convolutions are several times faster."""
    if device.type != "cpu":
        frozen = vision.to(device).eval()

        def run_torch(pixels: Array) -> Array:
            with torch.no_grad():
                features: Tensor = frozen(torch.from_numpy(pixels).to(device))
            return features.float().cpu().numpy()

        return run_torch
    size = vision.config.image.size
    model = to_onnx(vision, {"pixel_values": torch.zeros(2, 3, size, size, dtype=torch.uint8)}, ["features"])
    session = open_session(model, threads)
    return lambda pixels: run_graph(session, {"pixel_values": pixels})["features"]
