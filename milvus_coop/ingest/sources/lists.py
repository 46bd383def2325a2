"""Lists of items: JSONL and CSV files of images or texts, and plain text files with one text per line."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from milvus_coop.elsewhere.objects import is_remote, remote_file
from milvus_coop.errors import InvalidArgumentError, SourceError
from milvus_coop.ingest.items import Entry, Item, checked, hash_of
from milvus_coop.ingest.sources.files import Reading, SourceFile
from milvus_coop.ingest.sources.http import HttpFile, is_http
from milvus_coop.ingest.sources.walk import suffix_of
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.printable import escaped
from milvus_coop.store.metadata import is_taken
from milvus_coop.types import Failure, Kind

LISTS = frozenset({".jsonl", ".ndjson", ".csv"})
TEXTS = LISTS | {".txt"}

DEFAULT = Reading()

NAMING = frozenset({"uri", "path", "text"})
"""A CSV file must have at least one of these columns."""

SHOWN = 80
"""Maximum number of characters of a path that an error repeats."""

INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d{1,3})?")


class _BadRowError(ValueError):
    """A line that names no item."""


def read_list(file: SourceFile, kind: Kind, reading: Reading = DEFAULT) -> Iterator[Entry]:
    """The items of a list.

    In JSONL and CSV files, an image has `uri` or `path`: an address, or a path relative to the folder of the list. With both,
    `path` is the place of the file and `uri` is its name in the collection. A text has `text`, and may have `uri` or `id`. All
    other columns are metadata. CSV files have a header; see `parse_value` for their values. In .txt files, each line that is not
    blank is a text.

    The names of CSV columns are taken without the blanks around them. A name that appears twice, or that metadata cannot use, is an
    error of the whole list, because each of its lines would fail.

    A text without a uri gets the name `<list>#<hash of the text>`. So a text that is repeated in a list is one item, and inserting
    a line changes no other item.

    Yields:
        Items, and a `Failure` named `<list>:<line>` for each broken line.

    Raises:
        SourceError: the header of a CSV file cannot be used.
        OSError: the file cannot be read.
    """
    name, suffix = escaped(file.name), suffix_of(file.name)
    # Bytes that are not UTF-8 become lone surrogates here. They are found below and reported with their line.
    with io.TextIOWrapper(file.stream(), encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = _csv_rows(lines, name, kind) if suffix == ".csv" else _text_rows(lines) if suffix == ".txt" else _json_rows(lines)
        for line, row in rows:
            where = f"{name}:{line}"
            try:
                if isinstance(row, str):
                    raise _BadRowError(row)
                yield checked(text_of_row(row, file) if kind == "text" else image_of_row(row, file, reading), where)
            except (ValueError, OSError) as exc:  # a path or an address that cannot be parsed
                # A reason may repeat bytes that are not UTF-8, which are lone surrogates here.
                yield Failure(where, f"line {line}: {exc}".encode(errors="backslashreplace").decode())


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
    if DECIMAL.fullmatch(text) and math.isfinite(number := float(text)):  # 1234e567 may be a name
        return number
    return value


def _json_rows(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    def refuse(constant: str) -> Any:
        raise _BadRowError(f"{constant} is not JSON")

    decoder = json.JSONDecoder(parse_constant=refuse, object_pairs_hook=_without_repetition)
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
            yield number, row if isinstance(row, dict) else "not a JSON object"
        except (ValueError, RecursionError) as exc:
            yield number, str(exc) if isinstance(exc, _BadRowError) else f"not JSON: {exc}"


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _BadRowError(f"the name '{_repeated([name for name, _ in pairs])}' appears twice")
    return row


def _csv_rows(file: IO[str], name: str, kind: Kind) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(file, strict=True)
    names = _columns(reader, name, kind)
    while True:
        try:
            values = next(reader, None)
        except csv.Error as exc:
            yield reader.line_num, f"not CSV: {exc}"
            continue
        if values is None:
            return
        if not values:
            continue
        if len(values) > len(names):
            yield reader.line_num, f"more values than the header's {len(names)} columns"
            continue
        if any(value.strip() for column, value in zip(names, values, strict=False) if not column):
            yield reader.line_num, "a value stands in a column without a name"
            continue
        # The text and the name of an item are never numbers.
        row = {k: v if k in {"text", "uri", "path", "id"} else parse_value(v) for k, v in zip(names, values, strict=False) if k}
        yield reader.line_num, {k: v for k, v in row.items() if v not in (None, "")}


def _columns(reader: Iterator[list[str]], name: str, kind: Kind) -> list[str]:
    """The names of the columns of a CSV file, from its header.

    Raises:
        SourceError: the header names no items, or has a name that cannot be used.
    """
    try:
        names = [column.strip() for column in next(reader, [])]
    except csv.Error as exc:
        raise SourceError(f"the header of {name} is not CSV: {exc}") from exc
    used = [column for column in names if column]
    if not NAMING & set(used):
        raise SourceError(f"{name} has no header with a column that names its items", expected="uri, path or text")
    if len(set(used)) < len(used):
        raise SourceError(f"{name} has two columns '{_repeated(used)}'", expected="a different name for each column")
    if "" in names[: names.index(used[-1])]:
        raise SourceError(
            f"column {names.index('') + 1} of {name} has no name",
            expected="a name for each column (pandas: to_csv with index=False)",
        )
    own = {"uri", "text", "id"} if kind == "text" else {"uri"}
    if taken := [column for column in used if is_taken(column) and column not in own]:
        hint = "; a column 'uri' names images, beside a column 'path' with their files" if taken[0] == "id" else ""
        raise SourceError(
            f"{name} has a column '{taken[0][:80]}', and that name is taken by the collection", expected=f"another name{hint}"
        )
    return names


def _repeated(names: list[str]) -> str:
    return next(name for place, name in enumerate(names) if name in names[:place])


def _text_rows(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(file, start=1):
        if text := line.strip():
            yield number, {"text": text}


def image_of_row(row: dict[str, Any], file: SourceFile, reading: Reading) -> Item:
    """The image that a row of a list or table names.

    Raises:
        ValueError: it names none.
        SourceError: it is at an address whose driver is not installed.
    """
    row = dict(row)
    uri, path = row.pop("uri", None), row.pop("path", None)
    place = path if path is not None else uri
    if not isinstance(place, str) or not place or not isinstance(uri or "", str):
        raise _BadRowError("no 'uri' or 'path' with the name of a file")
    named = _named(place, file, reading)
    return Item(uri if uri and path else named.name, named.image, metadata=_metadata(row))


def _named(place: str, file: SourceFile, reading: Reading) -> SourceFile:
    """The file at an address, or at a path relative to the folder of the list."""
    try:
        parts = urlsplit(place)
    except ValueError as exc:
        raise _BadRowError(f"'{place[:SHOWN]}' is neither a path nor a file:// address: {exc}") from exc
    if "\0" in place:
        raise _BadRowError("the path contains a zero character")
    if is_remote(place):
        return remote_file(place)
    if is_http(place) and reading.web is not None:
        return HttpFile(place, reading.web)
    if parts.scheme == "file":
        if parts.netloc.lower() not in ("", "localhost"):
            raise _BadRowError(f"'{place[:SHOWN]}' is a file of another machine")
        place = url2pathname(parts.path)
    elif "://" in place:
        allow = "; --allow-http fetches it" if is_http(place) else ""
        raise _BadRowError(f"'{place[:SHOWN]}' is not a local file; name the file in 'path' and keep the address in 'uri'{allow}")
    return file.beside(place)


def text_of_row(row: dict[str, Any], file: SourceFile) -> Item:
    """The text of a row of a list or table.

    Raises:
        ValueError: it has none, or its name is of another type.
    """
    row = dict(row)
    text = row.pop("text", None)
    if not isinstance(text, str) or not text.strip():
        raise _BadRowError("no 'text'")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _BadRowError("the text is not valid Unicode")
    try:
        check_text(text)
    except InvalidArgumentError as exc:
        raise _BadRowError(str(exc)) from exc
    uri, key = row.pop("uri", None), row.pop("id", None)
    if uri is not None and key is not None:
        raise _BadRowError("both 'uri' and 'id' name the text; expected: one of them")
    name = uri if uri is not None else key
    if name is None:
        name = f"{file.name}#{hash_of(text.encode())}"
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise _BadRowError("'uri' or 'id' is neither text nor a whole number")
    return Item(str(name), text=text, metadata=_metadata(row))


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if v is not None}
