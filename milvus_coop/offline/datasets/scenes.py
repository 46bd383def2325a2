"""Generated scenes of coloured shapes, in groups whose captions differ only in which attribute belongs to which thing."""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL.Image import Image

from milvus_coop.errors import DatasetError, ImageUnreadableError
from milvus_coop.offline.datasets.items import Caption, CaptionedImage, DataProblem, Split
from milvus_coop.offline.datasets.randomness import rng_of
from milvus_coop.offline.datasets.scene_picture import Scene, SceneObject, draw, lay_out
from milvus_coop.offline.datasets.scene_words import Content, draw_content, read, variants, write
from milvus_coop.offline.datasets.spec import Spec
from milvus_coop.offline.datasets.standing import Meaning

__all__ = ["KEYS", "Scene", "SceneObject", "Scenes", "open_scenes", "scene_of"]

KEYS = {
    "n": "items of the train split (default: 20000)",
    "dev": "items of the dev split (default: 1000, at most 10000)",
    "test": "items of the test split (default: 1000, at most 10000)",
    "seed": "seed; another seed gives other scenes (default: 0)",
    "size": "edge of the images in px (default: 96)",
    "objects": "things in a scene: 2 or 3 (default: 2)",
    "vary": "1: fresh positions, sizes and shades of the train scenes in every epoch; 0: the same images (default: 1)",
}
_MOST = {2: 36_000, 3: 1_000_000}
"""Maximum number of scenes of 2 or 3 things in all splits. 39,000 of 2 things can be told apart, but the last are slow to find."""


def open_scenes(spec: Spec) -> Scenes:
    """`scenes:n=20000[,dev=1000][,test=1000][,seed=0][,size=96][,objects=2][,vary=1]`."""
    if spec.path is not None:
        raise DatasetError(f"--data {spec.text}: scenes are generated and have no path", expected="scenes:n=20000")
    train = spec.whole("n", 20_000, least=1)
    dev, test = (spec.whole(split, 1000, most=10_000) for split in ("dev", "test"))
    objects = spec.whole("objects", 2, least=2, most=3)
    if train + dev + test > _MOST[objects]:
        raise DatasetError(
            f"--data {spec.text}: {train + dev + test:,} scenes of {objects} things",
            expected=f"at most {_MOST[objects]:,} with dev and test, so that each has a caption of its own",
            run="objects=3" if objects == 2 else "",
        )
    size, vary = spec.whole("size", 96, least=16, most=1024), spec.switch("vary", True)
    return Scenes(spec.text, train=train, dev=dev, test=test, seed=spec.whole("seed", 0), size=size, objects=objects, vary=vary)


class Scenes:
    """A data set of scenes. No two captions of all its splits say the same."""

    def __init__(self, name: str, *, train: int, dev: int, test: int, seed: int, size: int, objects: int, vary: bool) -> None:
        self.name = name
        self.problems: Sequence[DataProblem] = ()
        self._size, self._seed, self._vary = size, seed, vary
        pool = _Pool(seed, objects)
        # Test comes first, so that its scenes do not depend on the sizes of the other splits.
        self._scenes = {split: pool.take(split, count) for split, count in (("test", test), ("dev", dev), ("train", train))}
        self._items: dict[tuple[Split, int], tuple[CaptionedImage, ...]] = {}

    def items(self, split: Split, *, epoch: int = 0) -> Sequence[CaptionedImage]:
        """The items of a split, group after group."""
        epoch = epoch if split == "train" and self._vary else 0
        if (split, epoch) not in self._items:
            self._items = {key: items for key, items in self._items.items() if key[0] != split}  # keeps one epoch at a time
            self._items[split, epoch] = tuple(self._item(split, epoch, *scene) for scene in self._scenes[split])
        return self._items[split, epoch]

    def _item(self, split: Split, epoch: int, group: int, kind: str, content: Content) -> CaptionedImage:
        item_id = f"scene/{write(content)}/{self._seed}.{epoch}"
        return CaptionedImage(item_id, (Caption(content.caption, kind=kind),), split, group=f"{split}-{group}")

    def open(self, item: CaptionedImage) -> Image:
        """Draw the item's image, which takes about 1 ms."""
        content, rng = _read_id(item)
        return draw(lay_out(content, rng), self._size, rng)


def scene_of(item: CaptionedImage) -> Scene:
    """The things and places in an item's image, in the order of the caption. A region detector is trained on this truth."""
    content, rng = _read_id(item)
    return lay_out(content, rng)


def _read_id(item: CaptionedImage) -> tuple[Content, random.Random]:
    """The content of the item's image, and the random generator that draws it. Both follow from the id."""
    try:
        return read(item.id.removeprefix("scene/").rpartition("/")[0]), rng_of(item.id)
    except ValueError as exc:
        raise ImageUnreadableError(f"{item.id}: {exc}") from exc


class _Pool:
    """Draws groups of scenes and remembers the meanings of their captions."""

    def __init__(self, seed: int, objects: int) -> None:
        self._seed, self._objects = seed, objects
        self._said: set[Meaning] = set()
        self._true: set[Meaning] = set()

    def take(self, split: str, count: int) -> tuple[tuple[int, str, Content], ...]:
        """`count` scenes as (group, difference from the group's first scene, content)."""
        rng, taken, groups = rng_of(f"{split} {self._seed} {self._objects}"), list[tuple[int, str, Content]](), 0
        while len(taken) < count:
            base = draw_content(rng, self._objects)
            group = self._new([("base", base), *variants(base, rng)])
            if len(group) < 2 or group[0][0] != "base":
                continue
            self._said.update(content.meaning for _, content in group)
            self._true.update(meaning for _, content in group for meaning in content.true_meanings)
            taken.extend((groups, kind, content) for kind, content in group)
            groups += 1
        return tuple(taken[:count])

    def _new(self, group: list[tuple[str, Content]]) -> list[tuple[str, Content]]:
        """The scenes whose caption is true of no other image, among all images so far and those of the group."""
        kept: list[tuple[str, Content]] = []
        said, true = set[Meaning](), set[Meaning]()
        for kind, content in group:
            meaning, meanings = content.meaning, content.true_meanings
            if meaning in self._true or meaning in true or not meanings.isdisjoint(self._said) or not meanings.isdisjoint(said):
                continue
            said.add(meaning)
            true |= meanings
            kept.append((kind, content))
        return kept
