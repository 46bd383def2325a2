"""Cut-outs: pictures of one thing each on a transparent ground, and which of them the splits may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from milvus_coop.datasets.items import SPLITS, Item, Problem, Split
from milvus_coop.datasets.nouns import head_of, label_of
from milvus_coop.datasets.randomness import number_of
from milvus_coop.errors import ImageError, ImageUnreadableError
from milvus_coop.preprocess.formats import MAX_PIXELS, open_image

MOST_WORDS = 4
_OPAQUE = 8  # alpha values up to this count as empty
_KEPT = 512  # cut-outs in memory, about 60 MB


@dataclass(frozen=True)
class Cutout:
    """A cut-out, ready to paste."""

    picture: Image.Image
    """RGBA, no empty rim."""
    colour: tuple[float, float, float]
    """Mean of its opaque pixels."""


class Cutouts:
    """Labels with their pictures. The share `unseen` of the labels is kept out of train: a third for dev, the rest for test."""

    def __init__(self, items: Sequence[Item], unseen: float) -> None:
        self.problems: list[Problem] = []
        self.photos: list[Path] = []
        pictures: dict[str, list[tuple[int, Path]]] = {}
        for item in items:
            path, label = item.path or Path(), label_of(item.captions[0].text)
            try:
                if not _is_transparent(path):
                    self.photos.append(path)
                elif not label or len(label.split()) > MOST_WORDS:
                    self.problems.append(Problem(item.id, f"'{label[:40]}' is no name of a thing of at most {MOST_WORDS} words"))
                else:
                    pictures.setdefault(label, []).append((number_of(item.id), path))
            except ImageError as exc:
                self.problems.append(Problem(item.id, str(exc)))
        self._pictures = {label: [path for _, path in sorted(found)] for label, found in sorted(pictures.items())}
        # Whole families are held out: who has seen apples knows red apples.
        heads = sorted({head_of(label) for label in self._pictures}, key=number_of)
        held_out = round(unseen * len(heads))
        self._unseen: dict[str, Split] = {head: "dev" if n < held_out // 3 else "test" for n, head in enumerate(heads[:held_out])}

    def __len__(self) -> int:
        return len(self._pictures)

    def is_unseen(self, label: str) -> bool:
        """Whether the label is kept out of train."""
        return head_of(label) in self._unseen

    def labels(self, split: Split, *, unseen: bool = False) -> list[str]:
        """The labels that scenes of a split may show."""
        wanted = split if unseen else None
        return [label for label in self._pictures if self._unseen.get(head_of(label)) == wanted]

    def pictures(self, label: str, split: Split) -> list[Path]:
        """The pictures of a label for a split. Of two or more, test has its own; of three or more, dev as well."""
        found = self._pictures.get(label, [])
        if len(found) < 2 or self.is_unseen(label):
            return found
        if len(found) == 2:
            return found[1:] if split == "test" else found[:1]
        of_test = max(1, len(found) // 3)
        parts = found[of_test + 1 :], found[of_test : of_test + 1], found[:of_test]
        return parts[SPLITS.index(split)]


def _is_transparent(path: Path) -> bool:
    # Only the header is read: a list has thousands.
    try:
        with path.open("rb") as file, open_image(file, at_least=0, max_pixels=MAX_PIXELS) as image:
            return image.has_transparency_data
    except ImageError:
        raise
    except Exception as exc:  # whatever Pillow's plugins stumble over
        raise ImageUnreadableError(f"{path} cannot be read: {exc or type(exc).__name__}") from exc


@lru_cache(maxsize=_KEPT)
def open_cutout(path: Path, largest: int) -> Cutout:
    """A cut-out without its empty rim, at most `largest` px wide and high.

    Raises:
        ImageUnreadableError: it cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file, open_image(file, at_least=0, max_pixels=MAX_PIXELS) as image:
            image.load()
            rgba = image.convert("RGBA")
    except ImageError:
        raise
    except Exception as exc:  # whatever Pillow's plugins stumble over
        raise ImageUnreadableError(f"{path} cannot be read: {exc or type(exc).__name__}") from exc
    box = rgba.getchannel("A").point([0] * _OPAQUE + [255] * (256 - _OPAQUE)).getbbox()
    if box is None:
        raise ImageUnreadableError(f"{path} is empty: all of it is transparent")
    rgba = rgba.crop(box)
    rgba.thumbnail((largest, largest), Image.Resampling.BILINEAR)
    pixels = np.asarray(rgba.reduce(4) if min(rgba.size) > 16 else rgba, np.float32).reshape(-1, 4)
    weights = pixels[:, 3] + 1e-3
    red, green, blue = (float((pixels[:, channel] * weights).sum() / weights.sum()) for channel in range(3))
    return Cutout(rgba, (red, green, blue))
