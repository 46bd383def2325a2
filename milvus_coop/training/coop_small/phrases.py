"""Captions of composite scenes with the truth about every word: which name a thing, where another part begins, what they say."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from milvus_coop.datasets.composite_words import Composition
from milvus_coop.datasets.nouns import NUMBERS, plural_of, with_article
from milvus_coop.datasets.standing import RELATIONS
from milvus_coop.training.coop_small.positions import COUNTED, PARTS
from milvus_coop.types import Array

_PLACES = {
    "left": ("to the left of", "on the left of"),
    "right": ("to the right of", "on the right of"),
    "above": ("over", "on top of"),
    "below": ("under", "beneath"),
}
_SIZES = {"large": ("big", "huge"), "small": ("little", "tiny")}
_BESIDE = (" with ", " next to ", " and ")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "above": (0.0, -1.0), "below": (0.0, 1.0)}
"""x to the right, y down."""
SIZE_VALUES = {"": 0.0, "large": 1.0, "small": -1.0}
Span = tuple[int, int]


@dataclass(frozen=True)
class Phrase:
    """A caption; `names`: the characters that name each part's thing; `ends`: where each part but the last ends."""

    text: str
    names: tuple[Span, ...]
    ends: tuple[int, ...]


def phrase(content: Composition, rng: random.Random | None = None) -> Phrase:
    """The package's own caption; with `rng`, other words for the same."""
    text, names, ends = "", list[Span](), list[int]()
    for number, part in enumerate(content.parts):
        if number:
            ends.append(len(text))
            text += _link(content, number, rng)
        size = rng.choice(_SIZES[part.size]) if rng and part.size else part.size
        name = plural_of(part.label) if part.count > 1 else part.label
        if part.count > 1:
            whole = f"{part.count if rng and rng.random() < 0.3 else NUMBERS[part.count]} {name}"
        else:
            whole = f"a {size} {name}" if size else with_article(name)
        start = len(text) + len(whole) - len(name)
        names.append((start, start + len(name)))
        text += whole
    return Phrase(text, tuple(names), tuple(ends))


def _link(content: Composition, number: int, rng: random.Random | None) -> str:
    if content.relations:
        relation = content.relations[number - 1]
        place = rng.choice(_PLACES[relation]) if rng else RELATIONS[relation]
        return f" and {place} " if number > 1 else f" {place} "
    if number < len(content.parts) - 1:
        return ", "
    return rng.choice(_BESIDE) if rng and len(content.parts) == 2 else " and "


@dataclass(frozen=True)
class Truth:
    """What `positions.Reading` should be, for n captions of T words; see there."""

    starts: Array
    nouns: Array
    exists: Array
    direction: Array
    size: Array
    number: Array


def truth_of(content: Composition, said: Phrase, offsets: list[Span], length: int) -> dict[str, Array]:
    """The truth about one caption whose words (at most `length`) stand at these characters."""
    starts, nouns = np.zeros(length, np.float32), np.zeros((PARTS, length), np.float32)
    words = [(index, start, end) for index, (start, end) in enumerate(offsets[:length]) if end > start]
    for stop in said.ends:
        index = next((index for index, start, _ in words if start >= stop), None)
        if index is not None:
            starts[index] = 1.0
    for part, (begin, finish) in enumerate(said.names):
        for index, start, end in words:
            nouns[part, index] = float(start < finish and end > begin)
    exists, direction = np.zeros(PARTS, np.float32), np.zeros((PARTS, 2), np.float32)
    size, number = np.zeros(PARTS, np.float32), np.zeros((PARTS, len(COUNTED)), np.float32)
    for part, what in enumerate(content.parts):
        exists[part] = 1.0
        size[part] = SIZE_VALUES[what.size]
        if what.count in COUNTED:
            number[part, COUNTED.index(what.count)] = 1.0
    for part, relation in enumerate(content.relations, start=1):
        direction[part] = DIRECTIONS[relation]
    return {"starts": starts, "nouns": nouns, "exists": exists, "direction": direction, "size": size, "number": number}
