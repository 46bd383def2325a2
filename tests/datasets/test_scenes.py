"""Scenes: captions are true of one picture of the data set only, groups differ in one binding, ids say everything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milvus_coop.errors import DatasetError, ImageUnreadableError
from milvus_coop.offline.datasets import SPLITS, CaptionedImage, Dataset, open_dataset
from milvus_coop.offline.datasets.randomness import rng_of
from milvus_coop.offline.datasets.scene_picture import _HSV, SceneObject, _rgb, lay_out
from milvus_coop.offline.datasets.scene_words import COLOURS, SHAPES, SIZES, Content, Thing, read, variants, write
from milvus_coop.offline.datasets.scenes import scene_of
from milvus_coop.offline.datasets.standing import RELATIONS

TINY = "scenes:n=120,dev=30,test=60,size=48"


@pytest.fixture(scope="module", params=[2, 3])
def scenes(request: pytest.FixtureRequest) -> Dataset:
    return open_dataset(f"{TINY},objects={request.param}")


seen = cache(scene_of)


def everything(dataset: Dataset) -> list[CaptionedImage]:
    return [item for split in SPLITS for item in dataset.items(split)]


def stands(relation: str, one: SceneObject, other: SceneObject) -> bool:
    """The generous reading: any distance in that direction, as long as it is more than a wobble."""
    dx, dy = other.x - one.x, other.y - one.y
    distance = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    return distance > 0.5 * (one.radius + other.radius)


def is_true(caption: str, item: CaptionedImage) -> bool:
    """Naive: look for every thing of the caption in the picture, then at where they stand."""
    things = {f"a {o.size} {o.colour} {o.shape}": o for o in seen(item).objects}
    subject = next((name for name in things if caption.startswith(name)), None)
    if subject is None:
        return False
    for clause in caption.removeprefix(subject).strip().split(" and "):
        relation = next(words for words in RELATIONS.values() if clause.startswith(words))
        name = clause.removeprefix(relation).strip()
        if name not in things or not stands(relation, things[subject], things[name]):
            return False
    return True


def test_sizes_of_splits_and_groups(scenes: Dataset) -> None:
    assert [len(scenes.items(split)) for split in SPLITS] == [120, 30, 60]
    items = everything(scenes)
    assert len({item.id for item in items}) == len(items)
    for split in SPLITS:
        groups = [item.group for item in scenes.items(split)]
        assert groups == sorted(groups, key=lambda name: int(name.split("-")[1])), "group after group"
        assert all(2 <= count <= 6 for group, count in Counter(groups).items() if group != groups[-1])
    assert not {item.group for item in scenes.items("train")} & {item.group for item in scenes.items("test")}


def test_a_caption_is_true_of_its_own_picture_and_of_no_other(scenes: Dataset) -> None:
    items = everything(scenes)
    for item in items:
        assert [other.id for other in items if is_true(item.captions[0].text, other)] == [item.id]


def test_captions_of_a_group_share_nearly_all_words(scenes: Dataset) -> None:
    for item in scenes.items("train"):
        base = next(other for other in scenes.items("train") if other.group == item.group)
        words, words_of_base = (Counter(i.captions[0].text.split()) for i in (item, base))
        assert (words - words_of_base).total() <= (1 if item.captions[0].kind in {"relation", "change"} else 0)


def test_the_picture_shows_the_colours_where_scene_of_says(scenes: Dataset) -> None:
    for item in everything(scenes)[:40]:
        pixels = np.asarray(scenes.open(item), int)
        assert pixels.shape == (48, 48, 3)
        for thing in scene_of(item).objects:
            if thing.shape != "ring":
                seen = pixels[int(thing.y * 48), int(thing.x * 48)]
                nearest = min(COLOURS, key=lambda name: int(((seen - _rgb(*_HSV[name])) ** 2).sum()))
                assert nearest == thing.colour, item.id


def test_things_keep_apart_and_inside(scenes: Dataset) -> None:
    for item in everything(scenes):
        objects = scene_of(item).objects
        assert all(o.radius < c < 1 - o.radius for o in objects for c in (o.x, o.y))
        assert all(max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius for a, b in combinations(objects, 2))


@pytest.mark.parametrize("sizes", list(product(SIZES, repeat=3)))
def test_there_is_room_for_things_of_all_sizes(sizes: tuple[str, str, str]) -> None:
    things = tuple(Thing(size, colour, "star") for size, colour in zip(sizes, COLOURS, strict=False))
    for seed, relations in enumerate([("left", "above"), ("right", "below")] * 100):
        assert lay_out(Content(things, relations), rng_of(f"{seed}"))
        assert lay_out(Content(things[:2], relations[:1]), rng_of(f"{seed}"))


def test_epochs_change_the_train_pictures_only() -> None:
    varied, fixed = open_dataset(TINY), open_dataset(f"{TINY},vary=0")
    first, second = varied.items("train"), varied.items("train", epoch=1)
    assert [i.captions for i in first] == [i.captions for i in second]
    assert not {i.id for i in first} & {i.id for i in second}
    assert varied.open(first[0]).tobytes() != varied.open(second[0]).tobytes()
    assert varied.items("dev", epoch=1) == varied.items("dev")
    assert fixed.items("train", epoch=1) == fixed.items("train") == first


def test_the_test_split_does_not_depend_on_the_others() -> None:
    assert open_dataset(TINY).items("test") == open_dataset("scenes:n=10,dev=0,test=60").items("test")
    assert open_dataset(TINY).items("test") != open_dataset(f"{TINY},seed=1").items("test")


def test_nothing_depends_on_the_hash_seed_of_the_process() -> None:
    code = (
        "import hashlib; from milvus_coop.offline.datasets import open_dataset\n"
        "d = open_dataset('scenes:n=40,dev=0,test=9,objects=3')\n"
        "h = hashlib.sha256()\n"
        "for i in (*d.items('train'), *d.items('test')): h.update(repr(i).encode() + d.open(i).tobytes())\n"
        "print(h.hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_too_many_scenes_is_an_error_that_says_what_helps() -> None:
    with pytest.raises(DatasetError, match="objects=3"):
        open_dataset("scenes:n=60000")


def test_an_item_of_another_data_set_cannot_be_drawn(scenes: Dataset) -> None:
    with pytest.raises(ImageUnreadableError, match="names no scene"):
        scenes.open(CaptionedImage("cats/1.jpg", scenes.items("dev")[0].captions, "dev"))


things = st.builds(Thing, st.sampled_from(SIZES), st.sampled_from(COLOURS), st.sampled_from(SHAPES))
pairs = st.builds(
    Content, st.lists(things, min_size=2, max_size=2, unique=True).map(tuple), st.tuples(st.sampled_from([*RELATIONS]))
)


@settings(max_examples=50, deadline=None)
@given(pairs, st.integers(0, 99))
def test_variants_are_other_scenes_and_names_read_back(content: Content, seed: int) -> None:
    assert read(write(content)) == content
    for _, other in variants(content, rng_of(str(seed))):
        assert other.meaning != content.meaning
        assert read(write(other)) == other
