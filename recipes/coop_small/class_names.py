"""The 1,000 ImageNet classes as words, and the facts of WordNet 3.0 that the recipe needs."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

_WORDNET = "wordnet-base/usr/share/wordnet"
_NAMES_FILE = "open-clip-torch/open_clip/zero_shot_metadata.py"
_NAMES_VARIABLE = "IMAGENET_CLASSNAMES"
_SYNSETS_FILE = "timm/timm/data/_info/imagenet_synsets.txt"
_DEPTH = 4


@dataclass(frozen=True)
class ImageNetClass:
    """One class: its readable name, and WordNet's words for it.

    `levels[0]` has the class's own words, `levels[1]` the words one step more general (its hypernyms), and so on.
    """

    name: str
    levels: tuple[tuple[str, ...], ...]


def read_classes(raw: Path) -> list[ImageNetClass]:
    """The classes in the order of an ImageNet classifier's outputs."""
    nouns = _read_nouns(raw)
    offsets = [int(line.strip()[1:]) for line in (raw / _SYNSETS_FILE).read_text("utf-8").split()]
    return [ImageNetClass(name, _words_by_level(nouns, offset)) for name, offset in zip(_readable_names(raw), offsets, strict=True)]


def read_english_words(raw: Path) -> frozenset[str]:
    """All words of WordNet in lower case; a compound has `_` between its parts."""
    files = (raw / _WORDNET / f"index.{part}" for part in ("noun", "adj", "verb", "adv"))
    return frozenset(line.split(" ", 1)[0] for file in files for line in _data_lines(file))


@dataclass(frozen=True)
class _Noun:
    words: tuple[str, ...]
    hypernyms: tuple[int, ...]


def _read_nouns(raw: Path) -> dict[int, _Noun]:
    """WordNet's nouns by their number, from the plain text that `man 5 wndb` describes."""
    nouns = {}
    for line in _data_lines(raw / _WORDNET / "data.noun"):
        fields = line.split("|", 1)[0].split()
        count = int(fields[3], 16)
        words = tuple(fields[4 + 2 * index].replace("_", " ") for index in range(count))
        pointers = fields[5 + 2 * count :]
        hypernyms = tuple(int(pointers[index + 1]) for index in range(0, len(pointers) - 3, 4) if pointers[index] in ("@", "@i"))
        nouns[int(fields[0])] = _Noun(words, hypernyms)
    return nouns


def _words_by_level(nouns: dict[int, _Noun], number: int) -> tuple[tuple[str, ...], ...]:
    levels: list[tuple[str, ...]] = []
    current: tuple[int, ...] = (number,)
    for _ in range(_DEPTH + 1):
        levels.append(tuple(word for item in current for word in nouns[item].words))
        current = tuple(dict.fromkeys(parent for item in current for parent in nouns[item].hypernyms))
    return tuple(level for level in levels if level)


def _data_lines(path: Path) -> list[str]:
    return [line for line in path.read_text("latin-1").splitlines() if not line.startswith("  ")]


def _readable_names(raw: Path) -> list[str]:
    """The list in open_clip's source, which is read and not imported."""
    tree = ast.parse((raw / _NAMES_FILE).read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == _NAMES_VARIABLE for target in node.targets):
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise ValueError(f"{_NAMES_FILE} has no {_NAMES_VARIABLE}")
