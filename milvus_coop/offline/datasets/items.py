"""Data sets of captioned images as the rest of the package uses them: items, and a way to open their images."""

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
    """The text. It is not empty and has no white space around it."""
    language: str = "en"
    kind: str = ""
    """The subject of the caption, if the data set knows it: `colour`, `size`, `shape`, `relation`, ..."""


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image and the captions that describe it."""

    id: str
    """The id, unique within the data set."""
    captions: tuple[Caption, ...]
    """The captions: at least one, unless the item can only be a distractor."""
    split: Split
    path: Path | None = None
    """The image file. None if the data set draws the image itself."""
    group: str = ""
    """The group. Items of one group are alike on purpose (one attribute apart). '' if the item is in no group."""


@dataclass(frozen=True, slots=True)
class DataProblem:
    """Something in the data that cannot be used and was left out."""

    place: str
    """The place of the problem: a line, such as `captions.jsonl, line 12`, or a file."""
    reason: str


class Dataset(Protocol):
    """Captioned images in three splits."""

    @property
    def name(self) -> str:
        """The data set as `--data` named it, for records and tables."""

    @property
    def problems(self) -> Sequence[DataProblem]:
        """The data that was left out, with the reasons."""

    def items(self, split: Split) -> Sequence[CaptionedImage]:
        """The items of a split, in a fixed order."""

    def open(self, item: CaptionedImage) -> Image:
        """The item's image as upright RGB in its original size. It is safe to call this from several threads.

        Raises:
            ImageError: the file is missing or cannot be read.
        """
