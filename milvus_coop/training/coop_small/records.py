"""One record per captioned picture, and the text rules that all sources share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """A picture and what it is called.

    `id` is `<source>/<name>`; `location` is a file below the raw folder, or the icon's name for an icon set;
    `texts` holds the caption first, then weaker texts (tags, keywords, synonyms).
    """

    id: str
    source: str
    location: str
    texts: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The first text."""
        return self.texts[0]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records), "utf-8")


def read_records(path: Path) -> list[Record]:
    """Read what `write_records` wrote."""
    rows = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return [Record(**{**row, "texts": tuple(row["texts"])}) for row in rows]


_ARTICLE = re.compile(r"^(a|an|the|some)\s+")


def normalise(text: str) -> str:
    """Reduce a text to what makes two captions the same: no case, punctuation, leading article or extra space.

    >>> normalise("A Red  kangaroo.")
    'red kangaroo'
    """
    words = re.sub(r"[^\w\s]", " ", text.lower().replace("_", " "))
    return _ARTICLE.sub("", " ".join(words.split()))


def unique_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Drop empty texts and texts that `normalise` to one seen before, keeping the order."""
    kept: dict[str, str] = {}
    for text in texts:
        kept.setdefault(normalise(text), " ".join(text.split()))
    kept.pop("", None)
    return tuple(kept.values())
