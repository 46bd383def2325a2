"""Run the frozen parts of both towers once over every image and text of the recipe, and keep what they give."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from rich.progress import track

from milvus_coop.models.preprocess.images import decode, to_pixels
from milvus_coop.offline.export.graphs import open_session, run_graph
from milvus_coop.types import Array
from recipes.coop_small.backbone import IMAGE_SPEC, MAP_SHAPE, SIZE, lower_graph

BATCH = 32


@dataclass(frozen=True)
class Captioned:
    """One image of the recipe, and its texts; the first is its caption, or all are captions of equal rank (photographs)."""

    path: Path
    source: str
    texts: tuple[str, ...]
    split: str


def read_captioned(path: Path, source: str = "") -> list[Captioned]:
    """Read a list of captioned images in the product's format. `source` stands for lines that name none."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [Captioned(path.parent / row["image"], row.get("source", source), tuple(row["captions"]), row["split"]) for row in rows]


def extract_maps(raw: Path, items: Sequence[Captioned], target: Path, *, views: int = 1) -> None:
    """Write the lower half's maps of all views, float16 (n, views, 80, 14, 14). View 0 is the image as the bundle sees it.

    The other views are random crops of 40 to 100 % of its area with changed brightness and contrast, drawn from the image's number.
    """
    session = open_session(lower_graph(raw), threads=os.cpu_count() or 2)
    partial = target.with_suffix(".partial.npy")
    store = np.lib.format.open_memmap(partial, "w+", np.float16, (len(items), views, *MAP_SHAPE))
    with ThreadPoolExecutor(2) as pool:
        numbers = range(0, len(items) * views, BATCH)
        batches = _ahead(pool, items, views, numbers)
        for start, pixels in zip(track(numbers, f"{target.stem}, {views} views"), batches, strict=True):
            maps = run_graph(session, {"pixel_values": pixels})["map"]
            store.reshape(-1, *MAP_SHAPE)[start : start + len(maps)] = maps
    store.flush()
    partial.rename(target)


def _ahead(pool: ThreadPoolExecutor, items: Sequence[Captioned], views: int, numbers: range) -> Iterator[Array]:
    """Pixels of each batch, prepared one batch ahead."""

    def pixels(start: int) -> Array:
        chosen = range(start, min(start + BATCH, len(items) * views))
        return np.stack([_view(items[number // views], number // views, number % views) for number in chosen])

    futures = [pool.submit(pixels, start) for start in numbers[:2]]
    for start in numbers:
        following = start + 2 * BATCH
        if following in numbers:
            futures.append(pool.submit(pixels, following))
        yield futures.pop(0).result()


def _view(item: Captioned, number: int, view: int) -> Array:
    image = decode(item.path, at_least=SIZE, background=IMAGE_SPEC.background)
    return to_pixels(image if view == 0 else _changed(image, np.random.default_rng((number, view))), IMAGE_SPEC)


def _changed(image: Image.Image, dice: np.random.Generator) -> Image.Image:
    """A random crop of random brightness and contrast."""
    area, ratio = dice.uniform(0.4, 1.0), np.exp(dice.uniform(-0.3, 0.3))
    width = min(image.width, round(image.width * (area * ratio) ** 0.5))
    height = min(image.height, round(image.height * (area / ratio) ** 0.5))
    left, top = dice.integers(image.width - width + 1), dice.integers(image.height - height + 1)
    part = image.crop((int(left), int(top), int(left) + width, int(top) + height))
    part = ImageEnhance.Brightness(part).enhance(dice.uniform(0.8, 1.2))
    return ImageEnhance.Contrast(part).enhance(dice.uniform(0.8, 1.2))
