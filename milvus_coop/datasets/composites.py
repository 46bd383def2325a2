"""Generated scenes of captioned cut-outs on varied grounds, fresh in every epoch, in groups that are easily confused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from PIL.Image import Image

from milvus_coop.datasets.composite_picture import LARGEST, Box, Slot, draw, lay_out
from milvus_coop.datasets.composite_words import KINDS, Composition, draw_group, read, write
from milvus_coop.datasets.cutouts import Cutout, Cutouts, open_cutout
from milvus_coop.datasets.folder import open_folder
from milvus_coop.datasets.items import SPLITS, Caption, Item, Problem, Split
from milvus_coop.datasets.jsonl import open_jsonl
from milvus_coop.datasets.randomness import rng_of
from milvus_coop.datasets.spec import Spec
from milvus_coop.errors import DatasetError, ImageUnreadableError

__all__ = ["KEYS", "Box", "Composites", "open_composites"]

KEYS = {
    "n": "items of the train split (default: 30000), fresh ones in every epoch",
    "dev": "items of the dev split (default: 1000, at most 10000)",
    "test": "items of the test split (default: 1000, at most 10000)",
    "seed": "another seed, other scenes (default: 0)",
    "size": "edge of the pictures in px (default: 288)",
    "unseen": "share of the labels that train never shows; half of the dev and test scenes consist of them (default: 0.15)",
    "kinds": f"what captions are about (default: {'+'.join(KINDS)})",
}
FEWEST_LABELS = 8
_PATIENCE = 200  # bad draws in a row until a kind counts as used up


def open_composites(spec: Spec) -> Composites:
    """Read `composites:LIST.jsonl` or `composites:FOLDER`, then `[,n=30000][,dev=1000][,test=1000][,seed=0][,unseen=0.15]...`.

    The list is a JSONL list or a folder of pictures with captions beside them. A picture with transparency whose first caption is
    the name of one thing (`a bear`) is a cut-out; opaque pictures are used as grounds, blurred.
    """
    path = spec.where()
    source = (open_folder if path.is_dir() else open_jsonl)(replace(spec, options={}))
    cutouts = Cutouts([item for split in SPLITS for item in source.items(split)], spec.share("unseen", 0.15))
    if len(cutouts) < FEWEST_LABELS:
        problems = [*source.problems, *cutouts.problems]
        first = f"; {len(problems):,} left out, first: {problems[0].place}: {problems[0].reason}" if problems else ""
        raise DatasetError(
            f"--data {spec.text}: {len(cutouts)} labels have cut-outs{first}",
            expected=f"transparent pictures of at least {FEWEST_LABELS} different things, each with its name as caption",
        )
    return Composites(
        spec.text,
        cutouts,
        source.problems,
        counts={
            "train": spec.whole("n", 30_000, least=1, most=1_000_000),
            "dev": spec.whole("dev", 1000, most=10_000),
            "test": spec.whole("test", 1000, most=10_000),
        },
        seed=spec.whole("seed", 0),
        size=spec.whole("size", 288, least=64, most=1024),
        kinds=spec.choices("kinds", KINDS),
    )


class Composites:
    """A data set of composite scenes; within a split (and epoch) each caption is true of its own picture only."""

    def __init__(
        self,
        name: str,
        cutouts: Cutouts,
        problems: Sequence[Problem],
        *,
        counts: dict[Split, int],
        seed: int,
        size: int,
        kinds: Sequence[str],
    ) -> None:
        self.name = name
        self._cutouts, self._counts, self._seed, self._size, self._kinds = cutouts, counts, seed, size, kinds
        self._items: dict[tuple[Split, int], tuple[Item, ...]] = {}
        short = (
            Problem(split, f"{len(found):,} of {counts[split]:,} scenes: the list has no more that can be told apart")
            for split in SPLITS
            if len(found := self.items(split)) < counts[split]
        )
        self.problems: Sequence[Problem] = (*problems, *cutouts.problems, *short)

    def items(self, split: Split, *, epoch: int = 0) -> Sequence[Item]:
        """The items of a split, group after group; those of train are other ones in every epoch."""
        epoch = epoch if split == "train" else 0
        if (split, epoch) not in self._items:
            self._items = {key: items for key, items in self._items.items() if key[0] != split}  # one epoch at a time
            self._items[split, epoch] = tuple(self._draw(split, epoch))
        return self._items[split, epoch]

    def _draw(self, split: Split, epoch: int) -> list[Item]:
        rng, items, claims, groups = rng_of(f"composites {split} {self._seed} {epoch}"), list[Item](), set[tuple[str, ...]](), 0
        pools = [self._cutouts.labels(split), *([] if split == "train" else [self._cutouts.labels(split, unseen=True)])]
        open_ways = [(kind, pool) for kind in self._kinds for pool in pools]
        while open_ways and len(items) < self._counts[split]:
            for way in tuple(open_ways):
                group = _new_group(*way, claims, rng)
                if group is None:
                    open_ways.remove(way)
                    continue
                claims.update(claim for content in group for claim in content.claims)
                items.extend(self._item(content, split, f"{self._seed}.{epoch}", f"{split}-{groups}") for content in group)
                groups += 1
        return items[: self._counts[split]]

    def _item(self, content: Composition, split: Split, draw_name: str, group: str) -> Item:
        unseen = any(self._cutouts.is_unseen(label) for label in content.labels)
        caption = Caption(content.caption, kind=f"{content.kind}/unseen" if unseen else content.kind)
        return Item(f"composite/{split}/{write(content)}/{draw_name}", (caption,), split, group=group)

    def open(self, item: Item) -> Image:
        """Draw the item's picture; about 5 ms."""
        slots, cutouts, rng = self._scene(item)
        return draw(slots, cutouts, self._size, self._cutouts.photos, rng)

    def boxes(self, item: Item) -> tuple[Box, ...]:
        """What is where in the picture of an item, in the order of its caption: the truth that a detector is trained on."""
        slots, cutouts, _ = self._scene(item)
        return tuple(slot.fit(cutout.picture.size) for slot, cutout in zip(slots, cutouts, strict=True))

    def _scene(self, item: Item) -> tuple[tuple[Slot, ...], list[Cutout], random.Random]:
        """All that a picture shows follows from the id."""
        prefix, _, rest = item.id.partition("/")
        split, _, rest = rest.partition("/")
        try:
            if prefix != "composite" or split != item.split:
                raise ValueError("it is not of this data set")
            content, rng = read(rest.rpartition("/")[0]), rng_of(item.id)
            slots = lay_out(content, rng)
            paths = [rng.choice(self._cutouts.pictures(slot.label, item.split)) for slot in slots]
        except (ValueError, IndexError) as exc:
            raise ImageUnreadableError(f"{item.id}: {exc}") from exc
        largest = round(LARGEST * self._size)
        return slots, [open_cutout(path, largest) for path in paths], rng


def _new_group(kind: str, labels: list[str], claims: set[tuple[str, ...]], rng: random.Random) -> list[Composition] | None:
    """A group that claims nothing that is taken; None: there are hardly any left."""
    for _ in range(_PATIENCE):
        group = draw_group(kind, labels, rng)
        if group and all(claims.isdisjoint(content.claims) for content in group):
            return group
    return None
