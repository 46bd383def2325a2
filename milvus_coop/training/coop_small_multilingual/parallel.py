"""The parallel texts: foreign texts with their English, and the rule that keeps the held-out captions out of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_coop.training.coop_small.packages import Package
from milvus_coop.training.coop_small.records import normalise
from milvus_coop.training.coop_small_multilingual.cldr import Annotation, read_emoji_names
from milvus_coop.training.coop_small_multilingual.freedict import read_dictionary
from milvus_coop.training.coop_small_multilingual.packages import CLDR
from milvus_coop.training.coop_small_multilingual.visible import visible_words

_MAX_KEYWORDS = 8
_MAX_CHARACTERS = 120


@dataclass(frozen=True)
class Pair:
    """A text and what it means in English; `source` is `stamps`, `names`, `keywords`, `dictionary` or `english`."""

    source: str
    text: str
    english: str


class HeldOut:
    """Captions that nothing may be trained on, in any language.

    A pair is a leak if its English equals a held-out English caption, or its foreign text a held-out caption in any language; both
    after `normalise`: no case, punctuation or leading English article. So the held-out caption "A banana." removes the word
    "banana" and all its translations from the dictionaries; "banana leaf" stays.
    """

    def __init__(self, captions: Iterable[str]) -> None:
        self._captions = frozenset(normalise(caption) for caption in captions)

    def leaks(self, *texts: str) -> bool:
        """Whether one of the texts is a held-out caption."""
        return any(normalise(text) in self._captions for text in texts)


def read_stamps(path: Path) -> list[dict[str, Any]]:
    """The rows of `stamps.jsonl`: image, captions per language, split."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def captions_of(rows: Iterable[dict[str, Any]], splits: Iterable[str]) -> list[str]:
    """All captions of those splits, in all languages."""
    wanted = set(splits)
    return [text for row in rows if row["split"] in wanted for texts in row["captions"].values() for text in texts]


def read_pairs(raw: Path, packages: Iterable[Package], stamps: list[dict[str, Any]], held_out: HeldOut) -> list[Pair]:
    """All pairs that are no leaks, each once, in a fixed order; and every English text paired with itself."""
    languages = {language for row in stamps for language in row["captions"]}
    found = [*_stamps(stamps), *_emoji(raw / CLDR.folder, languages, held_out)]
    words = visible_words(raw / "wordnet-base")
    for package in packages:
        if package.name.startswith("dict-freedict"):
            found += [Pair("dictionary", *pair) for pair in read_dictionary(raw / package.folder, words)]
    kept = [pair for pair in dict.fromkeys(found) if _is_short(pair) and not held_out.leaks(pair.text, pair.english)]
    english = dict.fromkeys(pair.english for pair in kept)
    return [*kept, *(Pair("english", text, text) for text in english)]


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """One JSON list per line: source, text, English."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps([pair.source, pair.text, pair.english], ensure_ascii=False) + "\n" for pair in pairs)


def load_pairs(path: Path) -> list[Pair]:
    """Read what `write_pairs` wrote."""
    with path.open(encoding="utf-8") as file:
        return [Pair(*json.loads(line)) for line in file]


def count_sources(pairs: Iterable[Pair]) -> dict[str, int]:
    """Pairs per source."""
    return dict(Counter(pair.source for pair in pairs))


def _stamps(rows: list[dict[str, Any]]) -> Iterator[Pair]:
    for row in rows:
        [english, *_] = row["captions"]["en"]
        for language, texts in row["captions"].items():
            if row["split"] == "train" and language != "en":
                yield from (Pair("stamps", text, english) for text in texts)


def _emoji(package: Path, languages: Iterable[str], held_out: HeldOut) -> Iterator[Pair]:
    """Names, and the keywords of a character as one text each: keyword lists are not aligned word by word."""
    for _, foreign, english in read_emoji_names(package, languages):
        yield Pair("names", foreign.name, english.name)
        if not held_out.leaks(english.name, *english.keywords, *foreign.keywords):
            yield Pair("keywords", _listed(foreign), _listed(english))


def _listed(annotation: Annotation) -> str:
    return ", ".join(annotation.keywords[:_MAX_KEYWORDS])


def _is_short(pair: Pair) -> bool:
    return 0 < len(pair.text) <= _MAX_CHARACTERS and 0 < len(pair.english) <= _MAX_CHARACTERS
