"""Emoji names and keywords of the Unicode CLDR, language by language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_FOLDER = "package/annotations"
_SAME = {"nb": "no"}


@dataclass(frozen=True)
class Annotation:
    """What one language calls one character."""

    name: str
    keywords: tuple[str, ...]


def read_annotations(package: Path, locale: str) -> dict[str, Annotation]:
    """Annotations by character; characters without a name are left out."""
    content = json.loads((package / _FOLDER / locale / "annotations.json").read_text("utf-8"))
    rows = content["annotations"].get("annotations", {})
    return {
        character: Annotation(" ".join(row["tts"]), tuple(row.get("default", ())))
        for character, row in rows.items()
        if row.get("tts")
    }


def read_emoji_names(package: Path, languages: Iterable[str]) -> Iterator[tuple[str, Annotation, Annotation]]:
    """(locale, foreign annotation, English annotation) of every character, for all locales of `languages`.

    Args:
        package: the unpacked package.
        languages: two-letter codes or locales such as `pt_BR`: what stands before the first sign that is no letter counts.
    """
    wanted = {_SAME.get(code, code) for code in (_base(language) for language in languages)} - {"en"}
    english = read_annotations(package, "en")
    for folder in sorted((package / _FOLDER).iterdir()):
        if _base(folder.name) in wanted:
            foreign = read_annotations(package, folder.name)
            yield from ((folder.name, foreign[key], english[key]) for key in foreign if key in english)


def _base(locale: str) -> str:
    return re.split(r"[^a-z]", locale)[0]
