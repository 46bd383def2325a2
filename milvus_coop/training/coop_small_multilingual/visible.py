"""The English words for what can be seen in a picture, by WordNet."""

from __future__ import annotations

from pathlib import Path

_FOLDER = "usr/share/wordnet"
_NOUN_FILES = {"05": "animal", "06": "artifact", "08": "body", "13": "food", "17": "object", "18": "person", "19": "phenomenon"}
_NOUN_FILES |= {"20": "plant", "25": "shape", "27": "substance"}
"""Numbers of WordNet's lexicographer files (see `man 5 lexnames`)."""


def visible_words(package: Path) -> frozenset[str]:
    """Nouns of animals, artifacts, food, plants and the like, and the adjectives that WordNet found in texts; lower case."""
    folder = package / _FOLDER
    nouns = {word for line in _lines(folder / "data.noun") if line.split(" ", 2)[1] in _NOUN_FILES for word in _words(line)}
    adjectives = {line.split(" ", 1)[0] for line in _lines(folder / "index.adj") if _uses(line)}
    return frozenset(word.replace("_", " ").lower() for word in nouns | adjectives)


def _uses(line: str) -> int:
    """How many senses of the word were met in texts; in an index line it stands before the synsets' offsets."""
    fields = line.split()
    return int(fields[-1 - int(fields[2])])


def _words(line: str) -> list[str]:
    fields = line.split(" ", 4 + 2 * 255)
    return fields[4 : 4 + 2 * int(fields[3], 16) : 2]


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("latin-1").splitlines() if not line.startswith("  ")]
