r"""Your own list with one JSON object per line: `{"image": "cats/1.jpg", "captions": ["Two cats.", "Cats on a wall."]}`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milvus_coop.errors import DatasetError, reason_of
from milvus_coop.offline.datasets.items import Caption, Split
from milvus_coop.offline.datasets.listed import SPLIT_NAMES, Gathering, ListedDataset
from milvus_coop.offline.datasets.spec import Spec

KEYS = {
    "images": "folder that the images' paths start from (default: the list's folder)",
    "language": "language of captions that name none (default: en)",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:")


class _BadLineError(ValueError):
    """A line that cannot be used."""


def open_jsonl(spec: Spec) -> ListedDataset:
    """Read `jsonl:FILE[,images=DIR][,language=en]`.

    A line has `image` and `captions` (a list, or a list or text per language: `{"en": [...], "de": "..."}`) or `caption`, and may
    have `split` (train, dev or val, test; default train) and `id` (default: `image`).
    """
    path = spec.where()
    if path.is_dir():
        raise DatasetError(f"--data {spec.text}: {path} is a folder", expected="a JSONL file", run=f"--data folder:{path}")
    images, languages = str(spec.folder("images", path.parent)), spec.languages("en")
    if len(languages) > 1:
        raise spec.wrong("language", "one language, that of captions without a language")
    gathering = Gathering(may_lack_captions=spec.may_lack_captions)
    try:
        for place, line in _lines(path):
            try:
                _read(gathering, place, _row(line), images, languages[0])
            except _BadLineError as exc:
                gathering.problem(place, str(exc))
    except OSError as exc:
        raise DatasetError(f"{path} cannot be read: {reason_of(exc)}") from exc
    return gathering.dataset(spec.text)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    # Bytes that are not UTF-8 become lone surrogates here. `_text` finds them and names their line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path.name}, line {number}", line


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _BadLineError(f"not JSON: {exc}") from exc
    if not isinstance(row, dict):
        raise _BadLineError("not a JSON object")
    return row


def _read(gathering: Gathering, place: str, row: dict[str, Any], images: str, language: str) -> None:
    image, item_id = _text(row.get("image"), "image"), row.get("id")
    if _ADDRESS.match(image):
        raise _BadLineError(f"'{image[:80]}' is an address, not a file: download the image and name its file")
    if isinstance(item_id, bool) or not isinstance(item_id, str | int | None) or item_id == "":
        raise _BadLineError("'id' is neither text nor a whole number")
    captions = [] if gathering.may_lack_captions and not row.keys() & {"captions", "caption"} else captions_of(row, language)
    gathering.add(place, image if item_id is None else str(item_id), os.path.join(images, image), captions, _split(row))  # noqa: PTH118


def captions_of(row: dict[str, Any], language: str) -> list[Caption]:
    """The captions of a JSON object, unchanged.

    Raises:
        ValueError: there are no captions, or they are not texts.
    """
    found = row.get("captions", row.get("caption"))
    if found is None:
        raise _BadLineError("no 'captions'")
    by_language = found if isinstance(found, dict) else {language: found}
    texts = [(code, text) for code, value in by_language.items() for text in (value if isinstance(value, list) else [value])]
    return [Caption(_text(text, "captions", may_be_empty=True), code) for code, text in texts]


def _split(row: dict[str, Any]) -> Split:
    name = row.get("split", "train")
    if not isinstance(name, str) or name not in SPLIT_NAMES:
        raise _BadLineError(f"the split is {json.dumps(name)[:40]}, expected train, dev, val or test")
    return SPLIT_NAMES[name]


def _text(value: Any, key: str, *, may_be_empty: bool = False) -> str:
    if value is None:
        raise _BadLineError(f"no '{key}'")
    if not isinstance(value, str):
        raise _BadLineError(f"'{key}' holds {json.dumps(value)[:40]}, expected text")
    if not value.strip() and not may_be_empty:
        raise _BadLineError(f"'{key}' is empty")
    if "\0" in value or (not value.isascii() and _SURROGATE.search(value)):
        raise _BadLineError(f"'{key}' is not valid UTF-8 text")
    return value
