"""ImageNet's 1,000 classes as words: a readable name, and the WordNet words above it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from milvus_coop.training.coop_small.wordnet import WordNet

_NAMES_FILE = "open-clip-torch/open_clip/zero_shot_metadata.py"
_NAMES_VARIABLE = "IMAGENET_CLASSNAMES"
_SYNSETS_FILE = "timm/timm/data/_info/imagenet_synsets.txt"
_DEPTH = 4


@dataclass(frozen=True)
class ImageNetClass:
    """One class. `levels[0]` are its own WordNet words, `levels[1]` those of its hypernyms, and so on."""

    name: str
    levels: tuple[tuple[str, ...], ...]


def read_classes(raw: Path) -> list[ImageNetClass]:
    """The classes in the order of the classifier's outputs."""
    wordnet = WordNet(raw / "wordnet-base")
    offsets = [int(line.strip()[1:]) for line in (raw / _SYNSETS_FILE).read_text("utf-8").split()]
    return [
        ImageNetClass(name, tuple(wordnet.words_and_hypernyms(offset, _DEPTH)))
        for name, offset in zip(_readable_names(raw), offsets, strict=True)
    ]


def _readable_names(raw: Path) -> list[str]:
    """The list in open_clip's source, read without importing it."""
    tree = ast.parse((raw / _NAMES_FILE).read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == _NAMES_VARIABLE for target in node.targets):
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise ValueError(f"no {_NAMES_VARIABLE} in {_NAMES_FILE}")
