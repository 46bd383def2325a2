"""Data sets that are lists of image files: the code that all readers share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from milvus_coop.errors import ImageUnreadableError
from milvus_coop.models.preprocess.images import decode
from milvus_coop.offline.datasets.items import SPLITS, Caption, CaptionedImage, DataProblem, Split

SPLIT_NAMES: dict[str, Split] = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}
"""The names of splits in published lists."""


class ListedDataset:
    """Captioned image files. The list is in memory; an image is opened when it is asked for."""

    def __init__(self, name: str, items: Iterable[CaptionedImage], problems: Sequence[DataProblem] = ()) -> None:
        self._name = name
        self._problems = tuple(problems)
        lists: dict[Split, list[CaptionedImage]] = {split: [] for split in SPLITS}
        for item in items:
            lists[item.split].append(item)
        self._items = {split: tuple(lists[split]) for split in SPLITS}

    @property
    def name(self) -> str:
        """The data set as `--data` named it."""
        return self._name

    @property
    def problems(self) -> Sequence[DataProblem]:
        """The data that was left out, with the reasons."""
        return self._problems

    def items(self, split: Split) -> Sequence[CaptionedImage]:
        """The items of a split, in the order of the list."""
        return self._items[split]

    def open(self, item: CaptionedImage) -> Image:
        """The item's image as upright RGB."""
        if item.path is None:
            raise ImageUnreadableError(f"{item.id} has no file")
        return decode(item.path)


class Gathering:
    """Collects items and problems while a list is read."""

    def __init__(self, *, may_lack_captions: bool = False) -> None:
        self.may_lack_captions = may_lack_captions
        self.items: list[CaptionedImage] = []
        self.problems: list[DataProblem] = []
        self._places: dict[str, str] = {}
        self._files = FileListing()

    def exists(self, path: str) -> bool:
        """True if `path` is a file."""
        return self._files.exist(path)

    def problem(self, place: str, reason: str) -> None:
        """Record that something is left out."""
        self.problems.append(DataProblem(place, reason))

    def add(self, place: str, item_id: str, path: str, captions: Iterable[Caption], split: Split) -> None:
        """Keep the item if its file exists, its id is new, and it has a caption or may lack captions.

        Args:
            place: the place in the list that names the item, for `problems`.
            item_id: the id, unique within the data set.
            path: the path of the image.
            captions: the captions as found. White space around them and exact repetitions are removed here.
            split: the split of the item.
        """
        if item_id in self._places:
            return self.problem(place, f"the id '{item_id}' is taken by {self._places[item_id]}")
        if not self.exists(path):
            return self.problem(place, f"there is no image {path}")
        kept: dict[tuple[str, str], Caption] = {}
        for caption in captions:
            if text := caption.text.strip():
                kept.setdefault((text, caption.language), caption if text == caption.text else replace(caption, text=text))
            else:
                self.problem(place, "a caption is empty")
        if not kept and not self.may_lack_captions:
            return self.problem(place, "no captions")
        self._places[item_id] = place
        self.items.append(CaptionedImage(item_id, tuple(kept.values()), split, Path(path)))
        return None

    def dataset(self, name: str) -> ListedDataset:
        """The data set of all gathered items."""
        return ListedDataset(name, self.items, self.problems)


class FileListing:
    """Knows which files exist. It lists each folder once, as one `stat` per file would take minutes on a network drive."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def exist(self, path: str) -> bool:
        """True if `path` is a file."""
        folder, name = os.path.split(path)
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = _file_names(folder)
        # A name may be missing from the listing because the file system ignores case or the form of accents.
        return name in names or os.path.isfile(path)  # noqa: PTH113 - a Path would cost more than the look-up


def _file_names(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def split_by_hash(key: str, dev: float, test: float) -> Split:
    """A split that depends on `key` only, so that new items do not move the others."""
    place = number_of(key) / 2**64
    if place < test:
        return "test"
    return "dev" if place < test + dev else "train"


def number_of(text: str) -> int:
    """A 64-bit number that looks random and depends on the text only, not on the process as `hash` does."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
