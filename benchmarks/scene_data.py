"""Scenes of two coloured shapes, in groups whose captions differ only in which attribute belongs to which thing.

Everything about a scene follows from its item's id. No caption of a data set is true of two of its images.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL.Image import Image

from benchmarks.scene_drawing import Relation, Scene, draw, lay_out, rng_of
from milvus_coop.offline.datasets import Caption, CaptionedImage, DataProblem, Split

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")
SIZES = ("small", "large")
ATTRIBUTES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
RELATIONS: dict[Relation, str] = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE: dict[Relation, Relation] = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape with its attributes."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


Meaning = tuple[Relation, Thing, Thing]


@dataclass(frozen=True, slots=True)
class Content:
    """Two different things, the first in a relation to the second."""

    first: Thing
    relation: Relation
    second: Thing

    @property
    def caption(self) -> str:
        """The caption, such as `a small red circle left of a large blue square`."""
        return f"{self.first} {RELATIONS[self.relation]} {self.second}"

    @property
    def meaning(self) -> Meaning:
        """The meaning of the caption: "A left of B" and "B right of A" have the same."""
        if self.relation in {"left", "above"}:
            return self.relation, self.first, self.second
        return OPPOSITE[self.relation], self.second, self.first

    def __str__(self) -> str:
        """A name that `read` understands, such as `small-red-circle/left/large-blue-square`."""
        first, second = (f"{thing.size}-{thing.colour}-{thing.shape}" for thing in (self.first, self.second))
        return f"{first}/{self.relation}/{second}"


def read(name: str) -> Content:
    """The content with that name."""
    first, relation, second = name.split("/")
    return Content(Thing(*first.split("-")), next(known for known in RELATIONS if known == relation), Thing(*second.split("-")))


def scene_of(item: CaptionedImage) -> Scene:
    """The things and places in an item's image, in the order of the caption. A region detector is trained on this truth."""
    return _scene_and_rng(item)[0]


def _scene_and_rng(item: CaptionedImage) -> tuple[Scene, random.Random]:
    content, rng = read(item.id.removeprefix("scene/").rpartition("/")[0]), rng_of(item.id)
    things = [(thing.size, thing.colour, thing.shape) for thing in (content.first, content.second)]
    return lay_out(things, content.relation, rng), rng


class Scenes:
    """A data set of scenes; it is a `Dataset`.

    Args:
        train: number of items of the train split; with dev and test at most 36,000, as 39,000 scenes can be told apart.
        dev: number of items of the dev split.
        test: number of items of the test split.
        seed: another seed gives other scenes.
        size: edge of the images in px.
    """

    def __init__(self, *, train: int, dev: int, test: int, seed: int = 0, size: int = 96) -> None:
        self.name = f"scenes:n={train},dev={dev},test={test},seed={seed}"
        self.problems: Sequence[DataProblem] = ()
        self._size, self._seed = size, seed
        told: set[Meaning] = set()
        # Test comes first, so that its scenes do not depend on the sizes of the other splits.
        counts: tuple[tuple[Split, int], ...] = (("test", test), ("dev", dev), ("train", train))
        self._items = {split: tuple(self._draw(split, count, told)) for split, count in counts}

    def items(self, split: Split) -> Sequence[CaptionedImage]:
        """The items of a split, group after group."""
        return self._items[split]

    def open(self, item: CaptionedImage) -> Image:
        """Draw the item's image, which takes about 1 ms."""
        scene, rng = _scene_and_rng(item)
        return draw(scene, self._size, rng)

    def _draw(self, split: Split, count: int, told: set[Meaning]) -> list[CaptionedImage]:
        """Groups of scenes whose meanings are new, and are then added to `told`."""
        rng, items, groups = rng_of(f"{split} {self._seed} 2"), list[CaptionedImage](), 0
        while len(items) < count:
            base = _draw_content(rng)
            group: dict[Meaning, tuple[str, Content]] = {}
            for kind, content in [("base", base), *variants(base, rng)]:
                if content.meaning not in told:
                    group.setdefault(content.meaning, (kind, content))
            if len(group) < 2 or base.meaning not in group:
                continue
            told.update(group)
            items += [
                CaptionedImage(
                    f"scene/{content}/{self._seed}.0", (Caption(content.caption, kind=kind),), split, group=f"{split}-{groups}"
                )
                for kind, content in group.values()
            ]
            groups += 1
        return items[:count]


def _draw_content(rng: random.Random) -> Content:
    """A scene whose things differ in colour and in shape, so that swapping one of these makes another scene."""
    colours, shapes = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2)
    first, second = (Thing(rng.choice(SIZES), colour, shape) for colour, shape in zip(colours, shapes, strict=True))
    return Content(first, rng.choice(tuple(RELATIONS)), second)


def variants(content: Content, rng: random.Random) -> list[tuple[str, Content]]:
    """Scenes one binding apart, each with the difference: a swapped attribute, a mirrored relation or a changed thing."""
    found: list[tuple[str, Content]] = []
    for attribute in ("colour", "size", "shape"):
        one, other = getattr(content.first, attribute), getattr(content.second, attribute)
        if one != other:
            rng.choice([(0, 1)])  # keeps the later draws, and so the measured figures, as they were
            first, second = replace(content.first, **{attribute: other}), replace(content.second, **{attribute: one})
            found.append((attribute, Content(first, content.relation, second)))
    rng.randrange(1)
    found.append(("relation", replace(content, relation=OPPOSITE[content.relation])))
    found.append(("change", _changed(content, rng)))
    return [(kind, other) for kind, other in found if other.first != other.second]


def _changed(content: Content, rng: random.Random) -> Content:
    place, attribute = rng.choice([0, 1]), rng.choice(tuple(ATTRIBUTES))
    thing = (content.first, content.second)[place]
    value = rng.choice([value for value in ATTRIBUTES[attribute] if value != getattr(thing, attribute)])
    changed = replace(thing, **{attribute: value})
    return replace(content, second=changed) if place else replace(content, first=changed)
