"""A hand-made data set, for the tests of evaluation."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from milvus_coop import FakeBackend, load_bundle
from milvus_coop.errors import ImageUnreadableError
from milvus_coop.offline.datasets import Caption, CaptionedImage, DataProblem, Split
from milvus_coop.offline.evaluation import BundleChoice

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "images"


@dataclass
class Given:
    """A data set of what it is given; it draws the images of items without a path."""

    test: Sequence[CaptionedImage]
    name: str = "given"
    problems: Sequence[DataProblem] = ()
    broken: set[str] = field(default_factory=set)

    def items(self, split: Split) -> Sequence[CaptionedImage]:
        return [item for item in self.test if item.split == split]

    def open(self, item: CaptionedImage) -> Image.Image:
        if item.id in self.broken:
            raise ImageUnreadableError(f"{item.id} cannot be drawn")
        if item.path is not None:
            return Image.open(item.path).convert("RGB")
        return drawn(zlib.crc32(item.id.encode()))


def drawn(seed: int) -> Image.Image:
    """An image that no other seed gives."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((32, 32), Image.Resampling.NEAREST)


def item(number: int, *captions: str | Caption, split: Split = "test", path: Path | None = None) -> CaptionedImage:
    texts = captions or (f"image number {number}",)
    return CaptionedImage(f"item{number:03}", tuple(c if isinstance(c, Caption) else Caption(c) for c in texts), split, path)


def examples(n: int) -> Given:
    """The first n sample images, called by their file names."""
    paths = sorted(p for p in EXAMPLES.iterdir() if p.suffix in {".jpg", ".png"})[:n]
    return Given([item(i, f"A {p.stem.replace('_', ' ')}.", path=p) for i, p in enumerate(paths)], name="examples")


def fake(name: str = "") -> BundleChoice:
    """coop-small's shapes without its sense: quick."""
    return BundleChoice("coop-small", FakeBackend(load_bundle("coop-small").spec), name)
