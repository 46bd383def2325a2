"""English nouns in captions."""

from __future__ import annotations

import pytest

from milvus_coop.datasets.nouns import can_be_counted, head_of, label_of, plural_of, with_article


@pytest.mark.parametrize(
    ("caption", "label", "singular", "plural"),
    [
        ("An Apple.", "apple", "an apple", "apples"),
        ("A polar bear!", "polar bear", "a polar bear", "polar bears"),
        ("unicorn", "unicorn", "a unicorn", "unicorns"),
        ("umbrella", "umbrella", "an umbrella", "umbrellas"),
        ("hourglass", "hourglass", "an hourglass", "hourglasses"),
        ("The slice of pizza", "slice of pizza", "a slice of pizza", "slices of pizza"),
        ("bus", "bus", "a bus", "buses"),
        ("cherry", "cherry", "a cherry", "cherries"),
        ("toy", "toy", "a toy", "toys"),
        ("wolf", "wolf", "a wolf", "wolves"),
        ("fireman", "fireman", "a fireman", "firemen"),
        ("human", "human", "a human", "humans"),
        ("box", "box", "a box", "boxes"),
        ("clownfish", "clownfish", "a clownfish", "clownfish"),
        ("cup without handle", "cup without handle", "a cup without handle", "cups without handle"),
    ],
)
def test_articles_and_plurals(caption: str, label: str, singular: str, plural: str) -> None:
    assert label_of(caption) == label
    assert (with_article(label), plural_of(label), can_be_counted(label)) == (singular, plural, True)


@pytest.mark.parametrize("label", ["grapes", "people", "white bread", "rice", "teacups without handles"])
def test_what_cannot_be_counted(label: str) -> None:
    assert not can_be_counted(label)
    assert with_article(label) == f"some {label}"


def test_heads() -> None:
    assert [head_of(label) for label in ("red apple", "slice of pizza", "apple")] == ["apple", "slice", "apple"]
