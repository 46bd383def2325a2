"""Lists of items: JSONL and CSV files of images or texts, and plain text files with one text per line."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from milvus_coop.errors import SourceError
from milvus_coop.ingest.items import Entry, Item, checked, hash_of, uri_of
from milvus_coop.store.schema import RESERVED
from milvus_coop.types import Failure, Kind

LISTS = frozenset({".jsonl", ".ndjson", ".csv"})
TEXTS = LISTS | {".txt"}

NAMING = frozenset({"uri", "path", "text"})
"""A CSV file must have at least one of these columns."""

INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d{1,3})?")


class _BadRowError(ValueError):
    """A line that names no item."""


def read_list(path: Path, kind: Kind) -> Iterator[Entry]:
    """The items of a list.

    In JSONL and CSV files, an image has `uri` or `path`, relative to the folder of the list. With both, `path` is the place of the
    file and `uri` is its name in the collection. A text has `text`, and may have `uri` or `id`. All other columns are metadata. CSV
    files have a header; see `parse_value` for their values. In .txt files, each line that is not blank is a text.

    A text without a uri gets the name `<list>#<hash of the text>`. So a text that is repeated in a list is one item, and inserting
    a line changes no other item.

    Yields:
        Items, and a `Failure` named `<list>:<line>` for each broken line.
    """
    # Bytes that are not UTF-8 become lone surrogates here. They are found below and reported with their line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = {".csv": _csv_rows, ".txt": _text_rows}.get(path.suffix.lower(), _json_rows)(file)
        for line, row in rows:
            where = f"{uri_of(path)}:{line}"
            try:
                if isinstance(row, str):
                    raise _BadRowError(row)
                yield checked(_text(row, path) if kind == "text" else _picture(row, path), where)
            except _BadRowError as exc:
                yield Failure(where, f"line {line}: {exc}")


def parse_value(value: str) -> Any:
    """The typed value of a CSV field: a boolean (`true` or `false` in any case), an integer, a decimal number, or a text.

    A decimal number has a point or an exponent. Numbers with leading zeros, such as postcodes, stay texts. Empty values become None
    and are left out.
    """
    text = value.strip()
    if not text:
        return None
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if DECIMAL.fullmatch(text) else value


def _json_rows(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    def refuse(constant: str) -> Any:
        raise _BadRowError(f"{constant} is not JSON")

    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=refuse)
            yield number, row if isinstance(row, dict) else "not a JSON object"
        except (ValueError, RecursionError) as exc:
            yield number, str(exc) if isinstance(exc, _BadRowError) else f"not JSON: {exc}"


def _csv_rows(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(file, strict=True)
    if not NAMING & {*(reader.fieldnames or ())}:
        raise SourceError(f"{file.name} has no header with a column that names its items", expected="uri, path or text")
    while True:
        try:
            row = next(reader, None)
        except csv.Error as exc:
            yield reader.line_num, f"not CSV: {exc}"
            continue
        if row is None:
            return
        if None in row:
            yield reader.line_num, f"more values than the header's {len(reader.fieldnames or ())} columns"
            continue
        # The text and the name of an item are never numbers.
        named = {k: v if k in {"text", "uri", "path", "id"} else parse_value(v) for k, v in row.items() if v is not None}
        yield reader.line_num, {k: v for k, v in named.items() if v not in (None, "")}


def _text_rows(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(file, start=1):
        if text := line.strip():
            yield number, {"text": text}


def _picture(row: dict[str, Any], source: Path) -> Item:
    row = dict(row)
    uri, path = row.pop("uri", None), row.pop("path", None)
    place = path if path is not None else uri
    if not isinstance(place, str) or not place or not isinstance(uri or "", str):
        raise _BadRowError("no 'uri' or 'path' with the name of a file")
    parts = urlsplit(place)
    if parts.scheme == "file":
        place = unquote(parts.path)
    elif "://" in place:
        raise _BadRowError(f"'{place}' is not a local file; name the file in 'path' and keep the address in 'uri'")
    if "\0" in place:
        raise _BadRowError("the path contains a zero character")
    local = Path(uri_of(os.path.join(source.parent, place)))  # noqa: PTH118 - uri_of makes it a Path
    return Item(uri if uri and path else local.as_posix(), path=local, metadata=_metadata(row))


def _text(row: dict[str, Any], source: Path) -> Item:
    row = dict(row)
    text = row.pop("text", None)
    if not isinstance(text, str) or not text.strip():
        raise _BadRowError("no 'text'")
    uri, key = row.pop("uri", None), row.pop("id", None)
    name = uri if uri is not None else key
    if name is None:
        name = f"{uri_of(source)}#{hash_of(text.encode(errors='surrogateescape'))}"
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise _BadRowError("'uri' or 'id' is neither text nor a whole number")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _BadRowError("the text is not valid UTF-8")
    return Item(str(name), text=text, metadata=_metadata(row))


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(k for k in row if k in RESERVED or not k or k.startswith("$")):
        raise _BadRowError(f"the name '{taken[0]}' is taken by the collection; rename it")
    if wrong := [k for k, v in row.items() if isinstance(v, int) and not -(2**63) <= v < 2**63]:
        raise _BadRowError(f"'{wrong[0]}' does not fit into 64 bits")
    if endless := [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]:
        raise _BadRowError(f"'{endless[0]}' is not a finite number")
    return {k: v for k, v in row.items() if v is not None}
