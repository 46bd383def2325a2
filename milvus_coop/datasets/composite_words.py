"""What is in a composite scene, how a caption says it, and which scenes are easily confused with it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from milvus_coop.datasets.nouns import NUMBERS, can_be_counted, head_of, plural_of, with_article
from milvus_coop.datasets.randomness import number_of
from milvus_coop.datasets.standing import HORIZONTAL, OPPOSITE, RELATIONS, VERTICAL, meaning_of, true_meanings

KINDS = ("relation", "size", "count", "objects")
SIZES = ("", "large", "small")
COUNTS = (2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Part:
    """One or more things of a label."""

    label: str
    count: int = 1
    size: str = ""

    def __str__(self) -> str:
        if self.count > 1:
            return f"{NUMBERS[self.count]} {plural_of(self.label)}"
        return f"a {self.size} {self.label}" if self.size else with_article(self.label)


@dataclass(frozen=True, slots=True)
class Composition:
    """The parts of a scene; with relations, the first part stands in them to the others."""

    kind: str
    parts: tuple[Part, ...]
    relations: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the caption."""
        return tuple(part.label for part in self.parts)

    @property
    def caption(self) -> str:
        """`a bear left of an apple`, `a large bear and a small apple`, `three cats`, `a bear, an apple and a car`."""
        if self.relations:
            places = (f"{RELATIONS[r]} {part}" for r, part in zip(self.relations, self.parts[1:], strict=True))
            return f"{self.parts[0]} {' and '.join(places)}"
        first = ", ".join(map(str, self.parts[:-1]))
        return f"{first} and {self.parts[-1]}" if first else str(self.parts[-1])

    @property
    def claims(self) -> frozenset[tuple[str, ...]]:
        """What no other group may show, so that its captions are not true of this picture: each pair of things, or the one thing.

        Things are named by their head word: a red apple is an apple.
        """
        heads = [head_of(label) for label in self.labels]
        if len(heads) == 1:
            return frozenset([("only", heads[0])])
        return frozenset(tuple(sorted(pair)) for pair in combinations(heads, 2))


def write(content: Composition) -> str:
    """A name that `read` understands: `relation/1--bear/left/1--apple`."""
    names = [f"{part.count}-{part.size}-{part.label}" for part in content.parts]
    relations = (*content.relations, *[""] * (len(names) - 1 - len(content.relations)))
    return "/".join([content.kind, names[0], *(word for pair in zip(relations, names[1:], strict=True) for word in pair)])


def read(name: str) -> Composition:
    """The composition that was written.

    Raises:
        ValueError: it is not a name of a composition.
    """
    kind, *words = name.split("/")
    pieces = [word.split("-", 2) for word in words[::2]]
    if kind not in KINDS or len(words) % 2 == 0 or any(len(piece) != 3 or piece[0] not in {*"12345"} for piece in pieces):
        raise ValueError(f"'{name}' names no composition")
    relations = tuple(word for word in words[1::2] if word)
    if not set(relations) <= set(RELATIONS) or (kind == "relation") != bool(relations) or any(p[1] not in SIZES for p in pieces):
        raise ValueError(f"'{name}' names no composition")
    return Composition(kind, tuple(Part(label, int(count), size) for count, size, label in pieces), relations)


def draw_group(kind: str, labels: Sequence[str], rng: random.Random) -> list[Composition] | None:
    """Three to five compositions that are easily confused, all true of their own picture only; None: a bad draw."""
    if len(labels) < 4:
        return None
    chosen = rng.sample(labels, 4)
    words = [{*label.split()} - {"of", "the", "and", "with"} for label in chosen]
    if sum(map(len, words)) > len(set().union(*words)):
        return None  # "a red apple left of a red car" says less than it seems to
    if kind == "relation":
        return _apart(_relations(chosen, rng))
    group = {"size": _sizes, "count": _counts, "objects": _objects}[kind](chosen, rng)
    return group if len(group) >= 3 else None


def _apart(group: list[Composition]) -> list[Composition] | None:
    kept: list[Composition] = []
    for content in group:
        means, true = meaning_of(content.labels, content.relations), true_meanings(content.labels, content.relations)
        if all(
            means not in true_meanings(other.labels, other.relations) and meaning_of(other.labels, other.relations) not in true
            for other in kept
        ):
            kept.append(content)
    return kept if len(kept) >= 3 else None


def _relations(labels: Sequence[str], rng: random.Random) -> list[Composition]:
    one, two, three, other = (Part(label) for label in labels)
    if rng.random() < 0.3:
        base = Composition("relation", (one, two, three), (rng.choice(HORIZONTAL), rng.choice(VERTICAL)))
        exchanged = (one, two, other) if rng.random() < 0.5 else (one, other, three)
        return [
            base,
            replace(base, parts=(two, one, three)),
            replace(base, parts=(one, three, two)),
            replace(base, relations=(OPPOSITE[base.relations[0]], base.relations[1])),
            replace(base, parts=exchanged),
        ]
    directions = [HORIZONTAL, VERTICAL]
    rng.shuffle(directions)
    base = Composition("relation", (one, two), (rng.choice(directions[0]),))
    turned = replace(base, relations=(rng.choice(directions[1]),))
    replaced = (one, three) if rng.random() < 0.5 else (three, two)
    group = [base, replace(base, parts=(two, one)), turned, replace(base, parts=replaced)]
    return [*group, replace(turned, parts=(two, one))] if rng.random() < 0.5 else group


def _sizes(labels: Sequence[str], rng: random.Random) -> list[Composition]:
    if not all(can_be_counted(label) for label in labels):
        return []
    one, two, three, other = labels
    pairs = [(one, two), (two, one), (three, two), (one, other)][: rng.choice((3, 4))]
    return [Composition("size", (Part(large, size="large"), Part(small, size="small"))) for large, small in pairs]


def _counts(labels: Sequence[str], rng: random.Random) -> list[Composition]:
    # A label is either counted alone or beside another thing, never both: "two cats" is true of two cats and a dog.
    counted = [label for label in labels if can_be_counted(label)]
    alone = [label for label in counted if number_of(head_of(label)) % 2]
    beside = [label for label in counted if label not in alone]
    numbers = rng.sample(COUNTS, 3)
    if len(alone) >= 2 and (len(beside) < 2 or rng.random() < 0.5):
        return [
            *(Composition("count", (Part(alone[0], number),)) for number in numbers),
            Composition("count", (Part(alone[1], numbers[0]),)),
        ]
    if len(beside) < 2:
        return []
    company, other = (label for label in labels if label not in beside[:2])
    return [
        *(Composition("count", (Part(beside[0], number), Part(company))) for number in numbers),
        Composition("count", (Part(beside[0], numbers[0]), Part(other))),
        Composition("count", (Part(beside[1], numbers[0]), Part(company))),
    ][: rng.choice((4, 5))]


def _objects(labels: Sequence[str], rng: random.Random) -> list[Composition]:
    one, two, three, other = (Part(label) for label in labels)
    if rng.random() < 0.5:
        triples = [(one, two, three), (other, two, three), (one, other, three), (one, two, other)]
        return [Composition("objects", parts) for parts in triples[: rng.choice((3, 4))]]
    return [
        Composition("objects", parts) for parts in [(one, two), (three, two), (one, other), (three, other)][: rng.choice((3, 4))]
    ]
