"""Random changes of a JSON document, for property tests of the records that are read from one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from((0, -1, 1, 10**30, "", "a"))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))


def change_one(document: dict[str, Any], draw: Callable[[st.SearchStrategy[Any]], Any]) -> Place:
    """Replace, remove or add one value anywhere in the document, and return its place."""
    place: Place = draw(st.sampled_from(places(document)))
    inner: Any = document
    for step in place[:-1]:
        inner = inner[step]
    last = place[-1]
    how = draw(st.sampled_from(("replace", "remove", "add")))
    if how == "remove":
        del inner[last]
    elif how == "add" and isinstance(inner, dict):
        last = draw(st.text(min_size=1, max_size=2).filter(lambda name: name not in inner))
        inner[last] = draw(VALUES)
        return (*place[:-1], last)
    else:
        inner[last] = draw(VALUES)
    return place


def names(place: Place) -> list[str]:
    """The names on the way to a place, as a message shows them."""
    return [json.dumps(step)[1:-1] for step in place if isinstance(step, str)]


def places(document: Any) -> list[Place]:
    """The place of every value in a document."""
    steps: Any = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [place for step in steps for place in ((step,), *((step, *inner) for inner in places(document[step])))]
