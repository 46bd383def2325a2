"""The places of the things of a scene, and the image of the scene. Both depend on a random generator alone."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from milvus_coop.offline.datasets.listed import number_of

RADII = {"small": (0.085, 0.105), "large": (0.165, 0.195)}
"""Half the side of the box around a thing, as a share of the image."""

_SUPERSAMPLING = 2
_NOISE = 13  # levels
_HSV = {
    "red": (0.0, 0.88, 0.86),
    "orange": (0.078, 0.95, 0.98),
    "yellow": (0.148, 0.88, 0.96),
    "green": (0.35, 0.75, 0.58),
    "cyan": (0.505, 0.72, 0.84),
    "blue": (0.63, 0.85, 0.82),
    "purple": (0.775, 0.72, 0.6),
    "pink": (0.915, 0.45, 0.98),
    "brown": (0.07, 0.68, 0.42),
    "black": (0.0, 0.0, 0.08),
}


EDGE, GAP = 0.02, 0.035
_SLANT = 0.22
"""How far "left of" may be from level, as a share of the distance."""

Relation = Literal["left", "right", "above", "below"]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A thing and its place. Centre and radius are shares of the image; y grows downwards."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The two things of an image, in the order of its caption."""

    objects: tuple[SceneObject, SceneObject]


def rng_of(text: str) -> random.Random:
    """A random generator that depends on the text only: not on the process, as `hash` does, and not on the order of calls."""
    return random.Random(number_of(text))


def lay_out(things: Sequence[tuple[str, str, str]], relation: Relation, rng: random.Random) -> Scene:
    """Place two things (size, colour, shape), the first in the relation to the second, apart and inside the image."""
    while True:
        radii = [rng.uniform(*RADII[size]) for size, _, _ in things]
        places = _stand(relation, radii, rng)
        apart = max(abs(places[0][axis] - places[1][axis]) for axis in (0, 1)) >= sum(radii) + GAP
        if apart and all(EDGE + r <= c <= 1 - EDGE - r for place, r in zip(places, radii, strict=True) for c in place):
            first, second = (SceneObject(*thing, *place, r) for thing, place, r in zip(things, places, radii, strict=True))
            return Scene((first, second))


def _stand(relation: Relation, radii: Sequence[float], rng: random.Random) -> list[tuple[float, float]]:
    """Centres of two things, with the first at a random place and the second at a random distance. They may stick out."""
    widest, axis = max(radii), 0 if relation in {"left", "right"} else 1
    first = [rng.uniform(EDGE + widest, 1 - EDGE - widest) for _ in range(2)]
    distance = rng.uniform(sum(radii) + GAP, 1 - 2 * EDGE - sum(radii))
    forward = relation in {"left", "above"}
    ends = (radii[0], 1 - radii[1] - distance) if forward else (radii[1] + distance, 1 - radii[0])
    first[axis] = rng.uniform(ends[0] + EDGE, ends[1] - EDGE)
    along = distance if forward else -distance
    across = along * rng.uniform(-_SLANT, _SLANT)
    dx, dy = (along, across) if axis == 0 else (across, along)
    return [(first[0], first[1]), (first[0] + dx, first[1] + dy)]


def draw(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """An RGB image of `size` x `size` px."""
    side = size * _SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), _background(rng))
    pen = ImageDraw.Draw(canvas)
    for thing in scene.objects:
        _draw_shape(pen, thing, side, _colour(thing.colour, rng))
    noise = np.frombuffer(rng.randbytes(size * size), np.uint8).reshape(size, size, 1).astype(np.int16) % _NOISE
    slope = np.linspace(0, rng.uniform(0, 24), size, dtype=np.int16)[:: rng.choice((1, -1))]
    shade = noise - _NOISE // 2 - (slope[:, None, None] if rng.random() < 0.5 else slope[None, :, None])
    pixels = np.asarray(canvas.reduce(_SUPERSAMPLING), np.int16) + shade
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _background(rng: random.Random) -> tuple[int, int, int]:
    return _rgb(rng.random(), rng.uniform(0, 0.06), rng.uniform(0.74, 0.99))


def _colour(name: str, rng: random.Random) -> tuple[int, int, int]:
    hue, saturation, value = _HSV[name]
    return _rgb(hue + rng.uniform(-0.012, 0.012), saturation * rng.uniform(0.92, 1.05), value * rng.uniform(0.93, 1.06))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(value, 1.0))
    return round(red * 255), round(green * 255), round(blue * 255)


def _regular(corners: int, inner: float) -> list[tuple[float, float]]:
    turns = range(2 * corners)
    lengths = [1.0 if turn % 2 == 0 else inner for turn in turns]
    return [
        (r * math.sin(math.pi * t / corners), -r * math.cos(math.pi * t / corners)) for t, r in zip(turns, lengths, strict=True)
    ]


def _heart() -> list[tuple[float, float]]:
    steps = [2 * math.pi * step / 40 for step in range(40)]
    curve = [
        (16 * math.sin(t) ** 3, -13 * math.cos(t) + 5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t)) for t in steps
    ]
    return [(x / 16.5, (y - 2.5) / 16.5) for x, y in curve]


_ARM = 0.34
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
    "star": _regular(5, 0.4),
    "cross": [
        *[(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)],
        *[(_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)],
    ],
    "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
    "heart": _heart(),
}


def _draw_shape(pen: ImageDraw.ImageDraw, thing: SceneObject, side: int, colour: tuple[int, int, int]) -> None:
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    if thing.shape in _OUTLINES:
        pen.polygon([(x + dx * radius, y + dy * radius) for dx, dy in _OUTLINES[thing.shape]], fill=colour)
        return
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing.shape == "ring":
        pen.ellipse(box, outline=colour, width=round(radius * 0.38))
    else:
        pen.ellipse(box, fill=colour)
