"""The few facts of WordNet 3.0 that the recipe needs: known words, and the synonyms and hypernyms of nouns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = "usr/share/wordnet"


@dataclass(frozen=True)
class Noun:
    """A noun synset: its words, most usual first, and the offsets of its direct hypernyms."""

    words: tuple[str, ...]
    hypernyms: tuple[int, ...]


class WordNet:
    """WordNet's noun file and its word indexes, read from the plain-text database (see `man 5 wndb`)."""

    def __init__(self, package: Path) -> None:
        folder = package / _FOLDER
        self._nouns = {noun[0]: noun[1] for line in _data_lines(folder / "data.noun") if (noun := _parse_noun(line))}
        self._words: set[str] = set()
        for part in ("noun", "adj", "verb", "adv"):
            self._words.update(line.split(" ", 1)[0] for line in _data_lines(folder / f"index.{part}"))

    def knows(self, word: str) -> bool:
        """Whether the lower-case word, or its singular by the plainest rule, is an English word."""
        return word in self._words or (word.endswith("s") and word[:-1] in self._words)

    def words_and_hypernyms(self, offset: int, depth: int) -> list[tuple[str, ...]]:
        """Words of the synset at `offset`, then of its hypernyms, level by level up to `depth`."""
        levels: list[tuple[str, ...]] = []
        current: tuple[int, ...] = (offset,)
        for _ in range(depth + 1):
            levels.append(tuple(word for item in current for word in self._nouns[item].words))
            current = tuple(dict.fromkeys(parent for item in current for parent in self._nouns[item].hypernyms))
        return [level for level in levels if level]


def _data_lines(path: Path) -> list[str]:
    return [line for line in path.read_text("latin-1").splitlines() if not line.startswith("  ")]


def _parse_noun(line: str) -> tuple[int, Noun]:
    fields = line.split("|", 1)[0].split()
    count = int(fields[3], 16)
    words = tuple(fields[4 + 2 * index].replace("_", " ") for index in range(count))
    pointers = fields[5 + 2 * count :]
    hypernyms = tuple(int(pointers[index + 1]) for index in range(0, len(pointers) - 3, 4) if pointers[index] in ("@", "@i"))
    return int(fields[0]), Noun(words, hypernyms)
