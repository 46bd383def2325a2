"""The picture of a composite scene: a background, and cut-outs where the caption says. All follows from a random generator."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from milvus_coop.datasets.composite_words import Composition
from milvus_coop.datasets.cutouts import Cutout
from milvus_coop.datasets.standing import Place, scatter, stand
from milvus_coop.preprocess.images import decode

LARGEST = 0.6
"""Longest edge of the largest cut-out, as a share of the picture."""

_SIDES = {"large": (0.48, LARGEST), "small": (0.15, 0.21)}
_SIDES_OF = {2: (0.3, 0.44), 3: (0.26, 0.36)}
_SIDES_OF_MANY = (0.21, 0.28)
_CELLS = 3
_CANDIDATES = 5
_THUMBNAIL = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A thing and the box around it, as shares of the picture, y grows downwards."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Slot:
    """The square that a thing is fitted into."""

    label: str
    x: float
    y: float
    side: float

    def fit(self, size: tuple[int, int]) -> Box:
        """The box of a cut-out of this size in px."""
        width, height = (edge / max(size) * self.side for edge in size)
        return Box(self.label, self.x - width / 2, self.y - height / 2, self.x + width / 2, self.y + height / 2)


def lay_out(content: Composition, rng: random.Random) -> tuple[Slot, ...]:
    """A square for every thing, in the order of the caption; none overlap."""
    labels = [part.label for part in content.parts for _ in range(part.count)]
    if content.kind == "count":
        sides, places = _grid(len(labels), rng)
        return tuple(Slot(label, x, y, side) for label, side, (x, y) in zip(labels, sides, places, strict=True))
    for _ in range(10_000):
        sides = [rng.uniform(*_SIDES.get(part.size, _SIDES_OF[len(labels)])) for part in content.parts]
        radii = [side / 2 for side in sides]
        found = stand(content.relations, radii, rng) if content.relations else scatter(radii, rng)
        if found:
            return tuple(Slot(label, x, y, side) for label, side, (x, y) in zip(labels, sides, found, strict=True))
    raise ValueError(f"no room for {content.caption}")


def _grid(count: int, rng: random.Random) -> tuple[list[float], list[Place]]:
    """Cells of a grid, so that things to be counted neither touch nor hide each other."""
    side = rng.uniform(*_SIDES_OF_MANY)
    sides = [side * rng.uniform(0.92, 1.08) for _ in range(count)]
    cells = rng.sample([(column, row) for column in range(_CELLS) for row in range(_CELLS)], count)
    free = [0.9 * (1 / _CELLS - side) / 2 for side in sides]
    return sides, [
        ((column + 0.5) / _CELLS + rng.uniform(-slack, slack), (row + 0.5) / _CELLS + rng.uniform(-slack, slack))
        for (column, row), slack in zip(cells, free, strict=True)
    ]


def draw(slots: Sequence[Slot], cutouts: Sequence[Cutout], size: int, photos: Sequence[Path], rng: random.Random) -> Image.Image:
    """An RGB picture of `size` x `size` px."""
    picture = _background(size, [cutout.colour for cutout in cutouts], photos, rng)
    for slot, cutout in zip(slots, cutouts, strict=True):
        box = slot.fit(cutout.picture.size)
        width, height = (max(1, round((end - start) * size)) for start, end in ((box.left, box.right), (box.top, box.bottom)))
        pasted = cutout.picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        picture.paste(pasted, (round(box.left * size), round(box.top * size)), pasted)
    return picture


def _background(size: int, colours: Sequence[tuple[float, ...]], photos: Sequence[Path], rng: random.Random) -> Image.Image:
    ways = ["plain", "gradient", "gradient", "texture", "texture", *(["photo"] * 2 if photos else [])]
    way = rng.choice(ways)
    if way == "photo":
        return _blurred(rng.choice(photos)).resize((size, size), Image.Resampling.BICUBIC)
    one, two = _contrasting(colours, rng), _contrasting(colours, rng)
    if way == "plain":
        return Image.new("RGB", (size, size), one)
    if way == "gradient":
        corners = np.array([one, two, one, two] if rng.random() < 0.5 else [one, one, two, two], np.uint8).reshape(2, 2, 3)
        return Image.fromarray(corners).resize((size, size), Image.Resampling.BILINEAR)
    # A coarse pattern of two colours that are close to each other, and grain.
    cells = rng.randint(4, 40)
    mix = np.frombuffer(rng.randbytes(cells * cells), np.uint8).reshape(cells, cells, 1).astype(np.float32) / 255 * 0.45
    pattern = np.array(one, np.float32) * (1 - mix) + np.array(two, np.float32) * mix
    return Image.fromarray(pattern.astype(np.uint8)).resize(
        (size, size), rng.choice((Image.Resampling.BICUBIC, Image.Resampling.NEAREST))
    )


def _contrasting(colours: Sequence[tuple[float, ...]], rng: random.Random) -> tuple[int, int, int]:
    """Of a few random colours the one that differs most from all of the cut-outs."""
    candidates = [colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.45), rng.uniform(0.4, 1.0)) for _ in range(_CANDIDATES)]

    def distance(candidate: tuple[float, float, float]) -> float:
        return min(sum((255 * a - b) ** 2 for a, b in zip(candidate, colour, strict=True)) for colour in colours)

    red, green, blue = max(candidates, key=distance)
    return round(255 * red), round(255 * green), round(255 * blue)


@lru_cache(maxsize=1024)
def _blurred(path: Path) -> Image.Image:
    """A photo with so few pixels that nothing in it can be told any more."""
    return decode(path, at_least=8 * _THUMBNAIL).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
