"""Composite scenes as the trainings read them: features of pictures, words of captions, and the truth about both."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from milvus_coop.training.coop_small.layout import CELLS
from milvus_coop.training.coop_small.phrases import Phrase, Truth, phrase, truth_of
from milvus_coop.training.coop_small.positions import PARTS
from milvus_coop.training.coop_small.scenes import Scene, load_scenes
from milvus_coop.training.coop_small.text_features import TRAINED_LENGTH, TextTable, tower_folder
from milvus_coop.types import Array

_GRID = 4
_VARIED_SHARE = 0.5
_CHUNK = 512


@dataclass(frozen=True)
class SceneSet:
    """Aligned over scenes (n of them), float32 where not said otherwise.

    `pooled` (n, 1280), `tags` (n, 384), `rows` (n, 24, 64), `cells` (n, 16, 256) float16, compressed; of the caption: `sentences`
    (n, 384), `words` (n, T, 64) float16, `mask` bool (n, T); `places` (n, 3, 16): where each part is, shares of the cells; `truth`.
    """

    scenes: list[Scene]
    captions: list[str]
    pooled: Array
    tags: Array
    rows: Array
    cells: Array
    sentences: Array
    words: Array
    mask: Array
    places: Array
    truth: Truth

    def __len__(self) -> int:
        return len(self.scenes)

    @cached_property
    def part(self) -> Array:
        """Which part of the captions each scene's labels are in, int64 (n,)."""
        return np.array([scene.part for scene in self.scenes])

    @cached_property
    def groups(self) -> list[Array]:
        """Positions of the scenes of each group."""
        names = np.array([f"{scene.part}/{scene.group}" for scene in self.scenes])
        _, number = np.unique(names, return_inverse=True)
        order = np.argsort(number, kind="stable")
        return np.split(order, np.cumsum(np.bincount(number))[:-1])

    def select(self, positions: Array) -> SceneSet:
        """The scenes at `positions`."""
        truth = Truth(**{field.name: getattr(self.truth, field.name)[positions] for field in fields(Truth)})
        return SceneSet(
            [self.scenes[index] for index in positions],
            [self.captions[index] for index in positions],
            self.pooled[positions],
            self.tags[positions],
            self.rows[positions],
            self.cells[positions],
            self.sentences[positions],
            self.words[positions],
            self.mask[positions],
            self.places[positions],
            truth,
        )


def scene_phrases(scenes: Sequence[Scene], *, varied: bool) -> list[Phrase]:
    """What each scene's caption is; `varied`: in other words for every second one."""
    return [phrase(scene.composition, _wording(scene) if varied else None) for scene in scenes]


def _wording(scene: Scene) -> random.Random | None:
    """Follows from the scene alone."""
    rng = random.Random(f"{scene.caption} {scene.boxes}")  # noqa: S311 - wording
    return rng if rng.random() < _VARIED_SHARE else None


def load_scene_set(folder: Path, names: Sequence[str], texts: TextTable, basis: Tensor, raw: Path, *, varied: bool) -> SceneSet:
    """Join the scenes saved under `names`; `texts` holds their captions."""
    loaded = [load_scenes(folder, name) for name in names]
    scenes = [
        # Names of groups are unique within one file only.
        Scene(**{**vars(scene), "group": f"{name}/{scene.group}"})
        for name, (found, _) in zip(names, loaded, strict=True)
        for scene in found
    ]
    joined = {key: np.concatenate([arrays[key] for _, arrays in loaded]).astype(np.float32) for key in ("pooled", "tags", "rows")}
    cells = np.concatenate([arrays["cells"] for _, arrays in loaded])
    phrases = scene_phrases(scenes, varied=varied)
    place = texts.rows([said.text for said in phrases])
    words = np.concatenate([(_tokens(texts, place[i : i + _CHUNK]) @ basis).numpy().astype(np.float16) for i in _starts(place)])
    return SceneSet(
        scenes,
        [said.text for said in phrases],
        joined["pooled"],
        joined["tags"],
        joined["rows"],
        cells,
        texts.sentences[place],
        words,
        texts.mask[place],
        np.stack([cell_shares(scene) for scene in scenes]),
        _truth(scenes, phrases, raw),
    )


def cell_shares(scene: Scene) -> Array:
    """Per part the shares of its things' boxes that lie in each cell, sums of one: float32 (3, 16)."""
    shares = np.zeros((PARTS, CELLS), np.float32)
    part_of_box = [part for part, count in enumerate(scene.counts) for _ in range(count)]
    steps = np.arange(_GRID)
    for part, (left, top, right, bottom) in zip(part_of_box, scene.boxes, strict=True):
        across = np.clip(np.minimum(right * _GRID, steps + 1) - np.maximum(left * _GRID, steps), 0, None)
        down = np.clip(np.minimum(bottom * _GRID, steps + 1) - np.maximum(top * _GRID, steps), 0, None)
        shares[part] += np.outer(down, across).ravel()
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-6)
    return shares


def _truth(scenes: Sequence[Scene], phrases: Sequence[Phrase], raw: Path) -> Truth:
    tokenizer: Tokenizer = Tokenizer.from_file(str(tower_folder(raw) / "tokenizer.json"))
    tokenizer.no_padding()
    rows = [
        truth_of(scene.composition, said, tokenizer.encode(said.text).offsets, TRAINED_LENGTH)
        for scene, said in zip(scenes, phrases, strict=True)
    ]
    return Truth(**{field.name: np.stack([row[field.name] for row in rows]) for field in fields(Truth)})


def _tokens(texts: TextTable, rows: Array) -> Tensor:
    return torch.from_numpy(texts.tokens[rows].astype(np.float32))


def _starts(values: Array) -> Iterator[int]:
    return iter(range(0, len(values), _CHUNK))
