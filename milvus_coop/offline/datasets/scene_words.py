"""The content of a scene of coloured shapes, its caption, and the scenes that are one binding apart from it."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace

from milvus_coop.offline.datasets.standing import HORIZONTAL, OPPOSITE, RELATIONS, VERTICAL, Meaning, meaning_of, true_meanings

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")
SIZES = ("small", "large")


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape with its attributes."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


ATTRIBUTES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}


@dataclass(frozen=True, slots=True)
class Content:
    """Two or three things, all different. Each of the others stands in a relation to the first thing.

    With three things the first relation is horizontal and the second vertical, so that the first thing is the corner of an L:
    no other caption of this form is true of the image.
    """

    things: tuple[Thing, ...]
    relations: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The caption, such as `a small red circle left of a large blue square and above a small green star`."""
        places = (f"{RELATIONS[r]} {thing}" for r, thing in zip(self.relations, self.things[1:], strict=True))
        return f"{self.things[0]} {' and '.join(places)}"

    @property
    def meaning(self) -> Meaning:
        """The meaning of the caption. Captions that say the same have the same meaning."""
        return meaning_of(self.things, self.relations)

    @property
    def true_meanings(self) -> frozenset[Meaning]:
        """All meanings that are true of the image for a generous reader."""
        return true_meanings(self.things, self.relations)


def write(content: Content) -> str:
    """A name that `read` understands, such as `small-red-circle/left/large-blue-square`."""
    names = [f"{thing.size}-{thing.colour}-{thing.shape}" for thing in content.things]
    return "/".join(itertools.chain([names[0]], *zip(content.relations, names[1:], strict=True)))


def read(name: str) -> Content:
    """The content of a name that `write` made.

    Raises:
        ValueError: the text is not the name of a scene.
    """
    parts = name.split("/")
    things = tuple(Thing(*part.split("-")) for part in parts[::2] if part.count("-") == 2)
    known = all(t.size in SIZES and t.colour in COLOURS and t.shape in SHAPES for t in things)
    if len(things) not in {2, 3} or len(parts) != 2 * len(things) - 1 or not known or not set(parts[1::2]) <= set(RELATIONS):
        raise ValueError(f"'{name}' names no scene")
    return Content(things, tuple(parts[1::2]))


def draw_content(rng: random.Random, objects: int) -> Content:
    """A scene whose things differ in colour and in shape, so that swapping one of these makes another scene."""
    colours, shapes = rng.sample(COLOURS, objects), rng.sample(SHAPES, objects)
    things = tuple(Thing(rng.choice(SIZES), colour, shape) for colour, shape in zip(colours, shapes, strict=True))
    if objects == 2:
        return Content(things, (rng.choice(tuple(RELATIONS)),))
    return Content(things, (rng.choice(HORIZONTAL), rng.choice(VERTICAL)))


def variants(content: Content, rng: random.Random) -> list[tuple[str, Content]]:
    """Scenes one binding apart, each with the difference: a swapped attribute, a mirrored relation or a changed thing."""
    found: list[tuple[str, Content]] = []
    for attribute in ("colour", "size", "shape"):
        pairs = [
            (i, j)
            for i, j in itertools.combinations(range(len(content.things)), 2)
            if getattr(content.things[i], attribute) != getattr(content.things[j], attribute)
        ]
        if pairs:
            found.append((attribute, _swapped(content, attribute, *rng.choice(pairs))))
    place = rng.randrange(len(content.relations))
    mirrored = tuple(OPPOSITE[r] if i == place else r for i, r in enumerate(content.relations))
    found.append(("relation", replace(content, relations=mirrored)))
    found.append(("change", _changed(content, rng)))
    return [(kind, other) for kind, other in found if len({*other.things}) == len(other.things)]


def _swapped(content: Content, attribute: str, i: int, j: int) -> Content:
    things = list(content.things)
    first, second = getattr(things[i], attribute), getattr(things[j], attribute)
    things[i], things[j] = replace(things[i], **{attribute: second}), replace(things[j], **{attribute: first})
    return replace(content, things=tuple(things))


def _changed(content: Content, rng: random.Random) -> Content:
    place, attribute = rng.randrange(len(content.things)), rng.choice(tuple(ATTRIBUTES))
    thing = content.things[place]
    value = rng.choice([value for value in ATTRIBUTES[attribute] if value != getattr(thing, attribute)])
    things = (*content.things[:place], replace(thing, **{attribute: value}), *content.things[place + 1 :])
    return replace(content, things=things)
