"""Composite scenes: captions true of one picture only, labels and pictures kept apart, fresh scenes in every epoch."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from milvus_coop.datasets import SPLITS, Item, open_dataset
from milvus_coop.datasets.composite_picture import _blurred, lay_out
from milvus_coop.datasets.composite_words import Composition, Part, read, write
from milvus_coop.datasets.composites import Box, Composites
from milvus_coop.datasets.nouns import head_of
from milvus_coop.datasets.randomness import rng_of
from milvus_coop.datasets.standing import RELATIONS
from milvus_coop.errors import DatasetError, ImageUnreadableError

WORDS = "ant bear cat dog elk fox goat hen iguana jay kite lion mole newt owl pig quail rat seal toad urchin viper wasp yak".split()  # noqa: SIM905
LABELS = [*WORDS, *(f"{word} cub" for word in WORDS[:2]), *(f"{word}-let" for word in WORDS)]
OPTIONS = "n=160,dev=60,test=90,size=96"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cutouts")
    rows = []
    for number, label in enumerate(LABELS):
        for copy in range(1 + number % 4):
            picture = Image.new("RGBA", (40, 30))
            picture.paste((number * 5, 255 - number * 5, 60 * copy, 255), (4, 4, 36, 20))
            picture.save(folder / f"{number}-{copy}.png")
            rows.append({"image": f"{number}-{copy}.png", "caption": f"A {label.title()}."})
    Image.new("RGB", (64, 48), (90, 120, 30)).save(folder / "photo.jpg")
    Image.new("RGBA", (8, 8)).save(folder / "empty.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows += [{"image": "photo.jpg", "caption": "A park."}, {"image": "broken.png", "caption": "A break."}]
    rows += [{"image": "0-0.png", "caption": "This is a whole sentence on ants", "id": "sentence"}]
    (folder / "cutouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def composites(source: Path) -> Composites:
    dataset = open_dataset(f"composites:{source}/cutouts.jsonl,{OPTIONS}")
    assert isinstance(dataset, Composites)
    return dataset


@cache
def boxes_of(dataset: Composites, item: Item) -> tuple[Box, ...]:
    return dataset.boxes(item)


def content_of(item: Item) -> Composition:
    return read(item.id.split("/", 2)[2].rpartition("/")[0])


def is_true(caption: str, dataset: Composites, item: Item) -> bool:
    """Naive: read the caption with regular expressions and look at the boxes."""
    boxes: dict[str, list[tuple[float, float, float]]] = {}
    for b in boxes_of(dataset, item):
        boxes.setdefault(head_of(b.label), []).append(
            ((b.left + b.right) / 2, (b.top + b.bottom) / 2, max(b.right - b.left, b.bottom - b.top))
        )
    clauses = re.split(r" and |, ", caption)
    subject = ""
    for clause in clauses:
        placed = re.split(rf" ?({'|'.join(RELATIONS.values())}) ", clause)
        names = [name for name in (placed[0], *placed[2::2]) if name]
        for name in names:
            number, *_ = name.split()
            count = {"two": 2, "three": 3, "four": 4, "five": 5}.get(number, 1)
            head = head_of(name).removesuffix("s" if count > 1 else "")
            if len(boxes.get(head, [])) != count:
                return False
            side = boxes[head][0][2]
            if (" large " in name and side < 0.4) or (" small " in name and side > 0.3):
                return False
        subject = names[0] if placed[0] else subject
        for relation, name in zip(placed[1::2], placed[2::2], strict=True):
            (x, y, _), (other_x, other_y, _) = boxes[head_of(subject)][0], boxes[head_of(name)][0]
            distance = {"left of": other_x - x, "right of": x - other_x, "above": other_y - y, "below": y - other_y}[relation]
            if distance < 0.2:
                return False
    return True


def test_counts_groups_and_kinds(composites: Composites) -> None:
    assert [len(composites.items(split)) for split in SPLITS] == [160, 60, 90]
    for split in SPLITS:
        groups = [item.group for item in composites.items(split)]
        sizes = [count for group, count in Counter(groups).items() if group != groups[-1]]
        assert groups == sorted(groups, key=lambda name: int(name.split("-")[1]))
        assert set(sizes) <= {3, 4, 5}
    kinds = {item.captions[0].kind for item in composites.items("test")}
    assert kinds == {f"{kind}{end}" for kind in ("relation", "size", "count", "objects") for end in ("", "/unseen")}
    assert not any("unseen" in item.captions[0].kind for item in composites.items("train"))


@pytest.mark.parametrize("split", SPLITS)
def test_a_caption_is_true_of_its_own_picture_and_of_no_other(composites: Composites, split: str) -> None:
    items = composites.items(split)  # type: ignore[arg-type]
    for item in items:
        found = [other.captions[0].text for other in items if is_true(item.captions[0].text, composites, other)]
        assert found == [item.captions[0].text]


def test_names_read_back(composites: Composites) -> None:
    items = [item for split in SPLITS for item in composites.items(split)]
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert write(content_of(item)) in item.id
        assert content_of(item).caption == item.captions[0].text


def test_labels_and_pictures_are_kept_apart(composites: Composites) -> None:
    heads = {
        (split, unseen): {
            head_of(label)
            for i in composites.items(split)
            if ("unseen" in i.captions[0].kind) == unseen
            for label in content_of(i).labels
        }
        for split in SPLITS
        for unseen in (False, True)
    }
    assert not heads["train", False] & heads["dev", True]
    assert not heads["train", False] & heads["test", True]
    assert not heads["dev", True] & heads["test", True]
    cutouts = composites._cutouts
    for label in cutouts.labels("test"):
        pictures = {split: set(cutouts.pictures(label, split)) for split in SPLITS}
        every = set().union(*pictures.values())
        assert all(pictures.values())
        assert len(every) == 1 or not pictures["test"] & (pictures["train"] | pictures["dev"])
        assert len(every) < 3 or all(not pictures[a] & pictures[b] for a, b in combinations(SPLITS, 2))


def test_train_is_fresh_in_every_epoch_and_the_others_are_fixed(composites: Composites, source: Path) -> None:
    first, second = composites.items("train"), composites.items("train", epoch=1)
    assert not {item.id for item in first} & {item.id for item in second}
    assert composites.items("dev", epoch=1) == composites.items("dev")
    again = open_dataset(f"composites:{source}/cutouts.jsonl,{OPTIONS}")
    assert again.items("train", epoch=1) == second
    assert again.open(second[3]).tobytes() == composites.open(second[3]).tobytes()


def test_pictures_show_the_cutouts_in_their_boxes(composites: Composites) -> None:
    for item in composites.items("train")[:20]:
        pixels = np.asarray(composites.open(item), int)
        assert pixels.shape == (96, 96, 3)
        boxes = composites.boxes(item)
        for box in boxes:
            assert min(box.left, box.top) >= 0
            assert max(box.right, box.bottom) <= 1
            inside = pixels[
                int((box.top + 0.02) * 96) + 1 : int((box.bottom - 0.02) * 96),
                int((box.left + 0.02) * 96) + 1 : int((box.right - 0.02) * 96),
            ]
            assert inside.size == 0 or np.ptp(inside.reshape(-1, 3), axis=0).max() <= 6, "a cut-out of one colour"
        assert all(
            a.right <= b.left or b.right <= a.left or a.bottom <= b.top or b.bottom <= a.top for a, b in combinations(boxes, 2)
        )


def test_there_is_room_for_every_composition() -> None:
    one, two, three = (Part(label) for label in ("ant", "bear", "cat"))
    contents = [
        Composition("relation", (one, two), ("left",)),
        Composition("relation", (one, two, three), ("right", "above")),
        Composition("size", (Part("ant", size="large"), Part("bear", size="small"))),
        Composition("objects", (one, two)),
        Composition("objects", (one, two, three)),
        Composition("count", (Part("ant", 5), two)),
    ]
    for content in contents:
        for seed in range(100):
            slots = lay_out(content, rng_of(f"{seed}"))
            assert all(slot.side / 2 <= c <= 1 - slot.side / 2 for slot in slots for c in (slot.x, slot.y))


def test_opaque_pictures_are_grounds_in_which_nothing_can_be_told(composites: Composites, source: Path) -> None:
    (photo,) = composites._cutouts.photos
    assert photo == source / "photo.jpg"
    checkers = Image.fromarray(((np.indices((64, 64)).sum(axis=0) // 4 % 2) * 255).astype(np.uint8))
    checkers.save(source / "checkers.png")
    assert np.ptp(np.asarray(_blurred(source / "checkers.png"), int)) < 10


def test_problems_of_the_source_are_named(composites: Composites) -> None:
    places = [problem.place for problem in composites.problems]
    assert places == ["broken.png", "sentence"]


def test_a_short_list_gives_fewer_scenes_and_says_so(source: Path) -> None:
    dataset = open_dataset(f"composites:{source}/cutouts.jsonl,n=5000,dev=0,test=0,kinds=count")
    assert [p.place for p in dataset.problems][-1] == "train"
    assert 100 < len(dataset.items("train")) < 5000


def test_too_few_labels_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"image": "gone.png", "caption": "bear"}')
    with pytest.raises(DatasetError, match=r"0 labels have cut-outs; 1 left out, first: list.jsonl, line 1: there is no picture"):
        open_dataset(f"composites:{tmp_path}/list.jsonl")


def test_items_that_cannot_be_drawn(composites: Composites) -> None:
    item = composites.items("test")[0]
    for name in ("cats/1.jpg", "composite/test/relation/1--nothing/left/1--bear/0.0", item.id.replace("/test/", "/train/")):
        with pytest.raises(ImageUnreadableError):
            composites.open(Item(name, item.captions, "test"))
