"""The relations left of, right of, above and below: what follows from them, and places of things that make them clearly true."""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Sequence

RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
HORIZONTAL, VERTICAL = ("left", "right"), ("above", "below")

Fact = tuple[str, Hashable, Hashable]
Meaning = frozenset[Fact]
Place = tuple[float, float]

EDGE = 0.02
GAP = 0.035
_SLANT = 0.22  # share of the distance: how far "left of" may be from level
_STEP = {"left": 1, "above": 1, "right": -1, "below": -1}


def meaning_of(things: Sequence[Hashable], relations: Sequence[str]) -> Meaning:
    """The meaning of a caption in which the first thing stands in these relations to the others, in order.

    "A left of B" and "B right of A" have the same meaning.
    """
    return frozenset(_fact(relation, things[0], thing) for relation, thing in zip(relations, things[1:], strict=True))


def true_meanings(things: Sequence[Hashable], relations: Sequence[str]) -> frozenset[Meaning]:
    """The caption's own meaning, and the other meanings that a generous reader finds true.

    With three things the first relation is horizontal and the second vertical: they stand in an L, the first at its corner. The
    other two stand diagonally, so that one is left of the other, and above or below it.
    """
    if len(things) == 2:
        return frozenset([meaning_of(things, relations)])
    corner, beside, beyond = things
    across, along = relations
    horizontal = (_fact(across, corner, beside), _fact(across, beyond, beside))
    vertical = (_fact(along, corner, beyond), _fact(along, beside, beyond))
    return frozenset(frozenset(pair) for pair in itertools.product(horizontal, vertical))


def _fact(relation: str, first: Hashable, second: Hashable) -> Fact:
    return (relation, first, second) if relation in {"left", "above"} else (OPPOSITE[relation], second, first)


def stand(relations: Sequence[str], radii: Sequence[float], rng: random.Random) -> list[Place] | None:
    """Centres for things of these radii (half the side of a box), the first in the relations to the others. None: a bad draw."""
    widest = max(radii)
    first = [_inside(widest, rng), _inside(widest, rng)]
    distances: list[float] = []
    for relation, radius in zip(relations, radii[1:], strict=True):
        nearest, farthest = radii[0] + radius + GAP, 1 - 2 * EDGE - radii[0] - radius
        if nearest > farthest:
            return None
        distance = rng.uniform(nearest, farthest)
        ends = (radii[0], 1 - radius - distance) if _STEP[relation] > 0 else (radius + distance, 1 - radii[0])
        first[0 if relation in HORIZONTAL else 1] = rng.uniform(ends[0] + EDGE, ends[1] - EDGE)
        distances.append(distance * _STEP[relation])
    places = [(first[0], first[1])]
    for relation, distance in zip(relations, distances, strict=True):
        slant = distance * rng.uniform(-_SLANT, _SLANT)
        dx, dy = (distance, slant) if relation in HORIZONTAL else (slant, distance)
        places.append((first[0] + dx, first[1] + dy))
    return places if _fit(places, radii) else None


def _inside(radius: float, rng: random.Random) -> float:
    return rng.uniform(EDGE + radius, 1 - EDGE - radius)


def _fit(places: Sequence[Place], radii: Sequence[float]) -> bool:
    if not all(EDGE + r <= c <= 1 - EDGE - r for place, r in zip(places, radii, strict=True) for c in place):
        return False
    return all(
        max(abs(places[i][0] - places[j][0]), abs(places[i][1] - places[j][1])) >= radii[i] + radii[j] + GAP
        for i, j in itertools.combinations(range(len(places)), 2)
    )
