"""What a data set of captioned images is to the rest of the package: items, and a way to open their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL.Image import Image

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Caption:
    """One text that describes an image."""

    text: str
    """Not empty, no white space around it."""
    language: str = "en"
    kind: str = ""
    """What the caption is about, where the data set knows: `colour`, `size`, `shape`, `relation`, ..."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image and the captions that describe it."""

    id: str
    """Unique within the data set."""
    captions: tuple[Caption, ...]
    """At least one."""
    split: Split
    path: Path | None = None
    """The image file; None: the data set draws the picture itself."""
    group: str = ""
    """Items of one group are alike on purpose (one attribute apart); '': the item is in no group."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the data that cannot be used; it was left out."""

    place: str
    """`captions.jsonl, line 12`, or a file."""
    reason: str


class Dataset(Protocol):
    """Captioned images in three splits."""

    @property
    def name(self) -> str:
        """What `--data` was given, for records and tables."""

    @property
    def problems(self) -> Sequence[Problem]:
        """What was left out, and why."""

    def items(self, split: Split, *, epoch: int = 0) -> Sequence[Item]:
        """The items of a split, in a fixed order.

        Args:
            split: which.
            epoch: of the `train` split; generated data sets may draw fresh items for every epoch, others ignore it.
        """

    def open(self, item: Item) -> Image:
        """The item's picture as upright RGB, its size as it comes. Safe to call from several threads.

        Raises:
            ImageError: the file is missing or cannot be read.
        """
