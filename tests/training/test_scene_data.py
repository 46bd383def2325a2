"""The scenes of `benchmarks/scenes.py`: a caption is true of one image only, groups differ in one binding, ids say everything."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scene_data import COLOURS, RELATIONS, SHAPES, SIZES, Content, Scenes, Thing, read, scene_of, variants
from benchmarks.scene_drawing import _HSV, SceneObject, _rgb, rng_of
from milvus_coop.offline.datasets import SPLITS, CaptionedImage


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(train=120, dev=30, test=60, size=48)


seen = cache(scene_of)


def everything(dataset: Scenes) -> list[CaptionedImage]:
    return [item for split in SPLITS for item in dataset.items(split)]


def stands(relation: str, one: SceneObject, other: SceneObject) -> bool:
    """The generous reading: any distance in that direction, as long as it is more than a wobble."""
    dx, dy = other.x - one.x, other.y - one.y
    distance = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    return distance > 0.5 * (one.radius + other.radius)


def is_true(caption: str, item: CaptionedImage) -> bool:
    """Naive: look for both things of the caption in the image, then at where they stand."""
    things = {f"a {o.size} {o.colour} {o.shape}": o for o in seen(item).objects}
    return any(
        caption == f"{one} {relation} {other}" and stands(relation, things[one], things[other])
        for one in things
        for other in things
        for relation in RELATIONS.values()
    )


def test_sizes_of_splits_and_groups(scenes: Scenes) -> None:
    assert [len(scenes.items(split)) for split in SPLITS] == [120, 30, 60]
    items = everything(scenes)
    assert len({item.id for item in items}) == len(items)
    for split in SPLITS:
        groups = [item.group for item in scenes.items(split)]
        assert groups == sorted(groups, key=lambda name: int(name.split("-")[1])), "group after group"
        assert all(2 <= count <= 6 for group, count in Counter(groups).items() if group != groups[-1])
    assert not {item.group for item in scenes.items("train")} & {item.group for item in scenes.items("test")}


def test_a_caption_is_true_of_its_own_image_and_of_no_other(scenes: Scenes) -> None:
    items = everything(scenes)
    for item in items:
        assert [other.id for other in items if is_true(item.captions[0].text, other)] == [item.id]


def test_captions_of_a_group_share_nearly_all_words(scenes: Scenes) -> None:
    for item in scenes.items("train"):
        base = next(other for other in scenes.items("train") if other.group == item.group)
        words, words_of_base = (Counter(i.captions[0].text.split()) for i in (item, base))
        assert (words - words_of_base).total() <= (1 if item.captions[0].kind in {"relation", "change"} else 0)


def test_the_image_shows_two_things_apart_with_their_colours_where_scene_of_says(scenes: Scenes) -> None:
    for item in everything(scenes)[:60]:
        pixels = np.asarray(scenes.open(item), int)
        assert pixels.shape == (48, 48, 3)
        one, other = scene_of(item).objects
        assert max(abs(one.x - other.x), abs(one.y - other.y)) > one.radius + other.radius
        for thing in (one, other):
            assert all(thing.radius < centre < 1 - thing.radius for centre in (thing.x, thing.y))
            if thing.shape != "ring":
                shown = pixels[int(thing.y * 48), int(thing.x * 48)]
                nearest = min(COLOURS, key=lambda name: int(((shown - _rgb(*_HSV[name])) ** 2).sum()))
                assert nearest == thing.colour, item.id


def test_the_test_split_does_not_depend_on_the_others(scenes: Scenes) -> None:
    assert scenes.items("test") == Scenes(train=10, dev=0, test=60).items("test")
    assert scenes.items("test") != Scenes(train=10, dev=0, test=60, seed=1).items("test")


def test_the_scenes_are_those_of_the_published_figures() -> None:
    first = Scenes(train=400, dev=40, test=120, seed=1).items("train")[3]
    assert first.id == "scene/small-orange-triangle/above/small-brown-cross/1.0"
    assert first.captions[0].text == "a small orange triangle above a small brown cross"


things = st.builds(Thing, st.sampled_from(SIZES), st.sampled_from(COLOURS), st.sampled_from(SHAPES))
pairs = st.builds(Content, things, st.sampled_from(list(RELATIONS)), things).filter(lambda content: content.first != content.second)


@settings(max_examples=50, deadline=None)
@given(pairs, st.integers(0, 99))
def test_variants_are_other_scenes_and_names_read_back(content: Content, seed: int) -> None:
    assert read(str(content)) == content
    for _, other in variants(content, rng_of(str(seed))):
        assert other.meaning != content.meaning
        assert read(str(other)) == other
