"""FreeDict dictionaries in dictd format: short translations of chosen English words."""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Iterator
from pathlib import Path

_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PRONUNCIATION = re.compile(r"\s*(/|<).*$")
_NUMBERING = re.compile(r"^(?:[IVX]+\.|\d+\.|<[^>]*>|\s)+")
_REMARK = re.compile(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)|\{[^}]*\}")
_NOT_A_TRANSLATION = re.compile(r"\s*(\"|Note:|Synonyms?:|Antonyms?:|see|- )")
_SEPARATORS = re.compile(r"[,;،|]| - ")
_MAX_LINES = 3
_MAX_PER_LINE = 3
_MAX_WORDS = 4
_EDGES = " -.\u2010"
_OLD_HUNGARIAN = str.maketrans("ôûÔÛ", "őűŐŰ")


def read_dictionary(package: Path, words: Collection[str]) -> Iterator[tuple[str, str]]:
    """Pairs of (foreign text, English text) of an unpacked package, whichever side of the dictionary is English.

    Args:
        package: the folder, named like the package.
        words: English words and phrases in lower case; other entries are left out, and plurals in -s count as their singular.
    """
    source, target = package.name.removeprefix("dict-freedict-").split("-")
    for headword, translations in read_entries(package / f"usr/share/dictd/freedict-{source}-{target}"):
        for translation in translations:
            english, foreign = (headword, translation) if source == "eng" else (translation, headword)
            english = english.lower().strip(_EDGES)
            if foreign.strip(_EDGES) and (english in words or english.removesuffix("s") in words):
                yield (foreign.translate(_OLD_HUNGARIAN) if target == "hun" else foreign), english


def read_entries(stem: Path) -> Iterator[tuple[str, list[str]]]:
    """Headwords and their first translations, from `<stem>.index` and `<stem>.dict.dz`."""
    with gzip.open(f"{stem}.dict.dz") as file:
        content = file.read()
    for line in Path(f"{stem}.index").read_text("utf-8").splitlines():
        name, start, length = line.split("\t")[:3]
        if not name.startswith("00"):  # facts about the dictionary itself
            entry = content[_number(start) : _number(start) + _number(length)].decode("utf-8", errors="replace")
            headword, _, body = entry.partition("\n")
            yield _PRONUNCIATION.sub("", headword).strip(), _translations(body)


def _translations(body: str) -> list[str]:
    lines = [line for line in body.splitlines() if line.strip() and not _NOT_A_TRANSLATION.match(line)][:_MAX_LINES]
    found: list[str] = []
    for line in lines:
        text = _REMARK.sub(" ", _NUMBERING.sub("", line)).split(". ")[0].replace("~", " ")
        parts = [" ".join(part.strip(" .").split()) for part in _SEPARATORS.split(text)]
        found += [part for part in parts if part and len(part.split()) <= _MAX_WORDS][:_MAX_PER_LINE]
    return list(dict.fromkeys(found))


def _number(text: str) -> int:
    """Base 64, most significant digit first."""
    value = 0
    for letter in text:
        value = 64 * value + _DIGITS.index(letter)
    return value
