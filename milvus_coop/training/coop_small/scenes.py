"""Composite scenes for training and judging: drawn by the package's own generator, read once by the frozen image tower."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from onnxruntime import InferenceSession

from milvus_coop.datasets.composite_words import KINDS, Composition, read
from milvus_coop.datasets.composites import Composites
from milvus_coop.datasets.cutouts import Cutouts
from milvus_coop.datasets.items import Item, Split
from milvus_coop.datasets.jsonl import open_jsonl
from milvus_coop.datasets.spec import parse_spec
from milvus_coop.export.sessions import open_session, run_graph
from milvus_coop.preprocess.images import to_pixels
from milvus_coop.training.coop_small.backbone import backbone_graph, image_spec
from milvus_coop.training.coop_small.towers import Tagger
from milvus_coop.training.efficientnet_lite import Variant
from milvus_coop.types import Array

logger = logging.getLogger(__name__)
UNSEEN = 0.15
"""Share of the labels that no training scene shows."""
_BATCH = 32
ARRAYS = ("pooled", "tags", "rows", "cells")


@dataclass(frozen=True)
class Scene:
    """What is in a scene; `boxes`: (left, top, right, bottom) of each thing in the caption's order, in shares of the picture."""

    caption: str
    kind: str
    group: str
    part: int
    """Which part of the captions its labels are in (see `train_embedding`); -1: any."""
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    sizes: tuple[str, ...]
    relations: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float], ...]

    @property
    def composition(self) -> Composition:
        """The package's record of what the caption says."""
        pieces = [f"{n}-{size}-{label}" for n, size, label in zip(self.counts, self.sizes, self.labels, strict=True)]
        relations = (*self.relations, *[""] * (len(pieces) - 1 - len(self.relations)))
        name = "/".join(
            [self.kind.partition("/")[0], pieces[0], *(x for pair in zip(relations, pieces[1:], strict=True) for x in pair)]
        )
        return read(name)


class LabelledCutouts(Cutouts):
    """Cut-outs of which only some labels are used."""

    def __init__(self, path: Path, allowed: Iterable[str] | None = None) -> None:
        """`path`: the list; `allowed`: labels to use, None for all."""
        source = open_jsonl(parse_spec(f"jsonl:{path}", ["jsonl"]))
        super().__init__(source.items("train"), UNSEEN)
        self._allowed = None if allowed is None else frozenset(allowed)

    def labels(self, split: Split, *, unseen: bool = False) -> list[str]:
        """As in the base class, without the labels that are not allowed."""
        found = super().labels(split, unseen=unseen)
        return found if self._allowed is None else [label for label in found if label in self._allowed]


def open_scenes(cutouts: Cutouts, counts: dict[Split, int], size: int, *, seed: int = 0) -> Composites:
    """The package's data set `composites:` over these cut-outs."""
    every: dict[Split, int] = {"train": 1, "dev": 0, "test": 0}
    return Composites("composites", cutouts, (), counts=every | counts, seed=seed, size=size, kinds=KINDS)


class SceneReader:
    """The frozen image tower over scenes."""

    def __init__(self, raw: Path, variant: Variant, tagger: Tagger, threads: int = 1) -> None:
        self._session: InferenceSession = open_session(backbone_graph(raw, variant), threads)
        self._spec, self._tagger = image_spec(variant), tagger

    def read(self, source: Composites, items: Sequence[Item], part: int = -1) -> tuple[list[Scene], dict[str, Array]]:
        """Scenes and their arrays, float16: `pooled` (n, 1280), `tags` (n, 384), `rows` (n, 24, 64), `cells` (n, 16, 256)."""
        columns: dict[str, list[Array]] = {name: [] for name in ARRAYS}
        with ThreadPoolExecutor(1) as pool:  # draws the next batch meanwhile
            starts = range(0, len(items), _BATCH)
            drawn = [pool.submit(self._draw, source, items[start : start + _BATCH]) for start in starts]
            for future in drawn:
                outputs = run_graph(self._session, {"pixel_values": future.result()})
                with torch.no_grad():
                    words = self._tagger(torch.from_numpy(outputs["pooled"]), torch.from_numpy(outputs["cells"]))
                found = (outputs["pooled"], words.tags.numpy(), words.rows.numpy(), words.cells.numpy())
                for name, values in zip(ARRAYS, found, strict=True):
                    columns[name].append(values.astype(np.float16))
        return [describe(source, item, part) for item in items], {k: np.concatenate(v) for k, v in columns.items()}

    def _draw(self, source: Composites, items: Sequence[Item]) -> Array:
        return np.stack([to_pixels(source.open(item), self._spec) for item in items])


def describe(source: Composites, item: Item, part: int = -1) -> Scene:
    """The truth about an item's picture."""
    content = read(item.id.split("/", 2)[2].rpartition("/")[0])
    parts = content.parts
    boxes = tuple((box.left, box.top, box.right, box.bottom) for box in source.boxes(item))
    [caption] = item.captions
    return Scene(
        caption.text,
        caption.kind,
        item.group,
        part,
        content.labels,
        tuple(p.count for p in parts),
        tuple(p.size for p in parts),
        content.relations,
        boxes,
    )


def save_scenes(folder: Path, name: str, scenes: Sequence[Scene], arrays: dict[str, Array]) -> None:
    """Write `<name>.jsonl` and one .npy per array."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, values in arrays.items():
        np.save(folder / f"{name}.{key}.npy", values)
    (folder / f"{name}.jsonl").write_text(
        "".join(json.dumps(asdict(scene), ensure_ascii=False) + "\n" for scene in scenes), "utf-8"
    )


def scene_names(folder: Path, split: str) -> list[str]:
    """Names under which scenes of a split were saved; of all splits for an empty one."""
    return sorted(path.stem for path in folder.glob(f"{split}*.jsonl"))


def load_scenes(folder: Path, name: str) -> tuple[list[Scene], dict[str, Array]]:
    """Read what `save_scenes` wrote; the arrays are mapped, not read."""
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    scenes = [
        Scene(
            caption=row["caption"],
            kind=row["kind"],
            group=row["group"],
            part=row["part"],
            labels=tuple(row["labels"]),
            counts=tuple(row["counts"]),
            sizes=tuple(row["sizes"]),
            relations=tuple(row["relations"]),
            boxes=tuple((left, top, right, bottom) for left, top, right, bottom in row["boxes"]),
        )
        for row in rows
    ]
    return scenes, {key: np.load(folder / f"{name}.{key}.npy", mmap_mode="r") for key in ARRAYS}
