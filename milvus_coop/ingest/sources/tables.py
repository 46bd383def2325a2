"""Parquet tables: manifests that name images, and tables that hold them."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Iterator
from typing import Any

from milvus_coop.errors import SourceError
from milvus_coop.ingest.items import Entry, Item, checked
from milvus_coop.ingest.sources.files import PassOver, Reading, SourceFile
from milvus_coop.ingest.sources.lists import image_of_row, text_of_row
from milvus_coop.printable import escaped
from milvus_coop.store.metadata import is_taken
from milvus_coop.types import Failure, Kind

TABLES = frozenset({".parquet"})
ROWS = 64
"""Number of rows that are read at a time. An image has 100 kB or more."""
BUFFER_BYTES = 1 << 20
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
"""The usual names of columns with images: those of Hugging Face's data sets, and of img2dataset."""
NO_IMAGE = "rows without an image"
EXACT = 15
"""Number of decimal digits that a float holds exactly."""
NAMES = ("uri", "path", "text", "id", "key")

Convert = Callable[[Any], Any]


def read_table(file: SourceFile, kind: Kind, reading: Reading, pass_over: PassOver | None = None) -> Iterator[Entry]:
    """The items of a table.

    An image is in the column that `reading` names or in one of `IMAGE_COLUMNS`, as bytes or as a struct with `bytes`; else `uri` or
    `path` names it, as in lists. A text is in `text` or `caption`. Items that the table holds are named by `uri`, or else
    `<table>#<key>` with the column `key` or `id`, or else `<table>#<number of the row>`, which begins with 1. All other columns are
    metadata.

    A row without an image, such as one that img2dataset could not download, is passed over, and so is a column that metadata cannot
    hold.

    Raises:
        OSError: the table cannot be read.
        SourceError: a column is missing or of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.stream() as stream:
        try:
            table = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
            image = _image_column(table.schema_arrow, reading) if kind == "image" else None
            columns = _columns(table.schema_arrow, kind, image, file, pass_over)
            number = 0
            for batch in table.iter_batches(batch_size=ROWS, columns=list(columns), use_threads=False):
                values = [map(convert, batch.column(name).to_pylist()) for name, convert in columns.items()]
                for row in zip(*values, strict=True):
                    number += 1
                    yield from _entries(dict(zip(columns, row, strict=True)), number, image, kind, file, reading, pass_over)
        except (pa.ArrowException, EOFError) as exc:
            raise OSError(f"not a Parquet file that can be read: {' '.join(str(exc).split())[:300]}") from exc


def holds_images(file: SourceFile, reading: Reading) -> bool:
    """True if a table holds images; False if it names them, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.stream() as stream:
            return _image_column(pq.ParquetFile(stream).schema_arrow, reading) is not None
    except (pa.ArrowException, OSError, EOFError, SourceError):
        return False


def _entries(
    row: dict[str, Any],
    number: int,
    image: str | None,
    kind: Kind,
    file: SourceFile,
    reading: Reading,
    pass_over: PassOver | None,
) -> Iterator[Entry]:
    where = f"{escaped(file.name)}:{number}"
    content = row.pop(image) if image else None
    row = {name: value for name, value in row.items() if value is not None}
    if image and content is None:
        if pass_over:
            pass_over(NO_IMAGE, "")
        return
    try:
        if image:
            row.pop("path", None)
            item = Item(_name(row, number, file), content, metadata=row)
        elif kind == "text":
            row.setdefault("text", row.pop("caption", None))
            if "uri" not in row and "id" not in row and "key" in row:
                row["uri"] = f"{file.name}#{row['key']}"
            item = text_of_row(row, file)
        else:
            row.pop("id", None)
            item = image_of_row(row, file, reading)
        yield checked(item, where)
    except (ValueError, OSError) as exc:
        yield Failure(where, f"row {number}: {exc}")


def _name(row: dict[str, Any], number: int, file: SourceFile) -> str:
    """The uri of an item that the table holds. It takes the columns that only name items out of the row."""
    uri, key = row.pop("uri", None), row.pop("id", None)
    if uri is not None:
        return str(uri)
    return f"{file.name}#{row.get('key', key if key is not None else number)}"


def _image_column(schema: Any, reading: Reading) -> str | None:
    if (chosen := reading.image_column) is not None:
        if chosen not in schema.names:
            raise SourceError(f"there is no column '{chosen[:80]}'", expected=f"one of {', '.join(schema.names)[:300]}")
        if not _holds_images(schema.field(chosen).type):
            raise SourceError(f"the column '{chosen[:80]}' is of type {schema.field(chosen).type}", expected="bytes of image files")
        return chosen
    named = (name for name in IMAGE_COLUMNS if name in schema.names)
    return next((name for name in named if _holds_images(schema.field(name).type)), None)


def _holds_images(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(part.name == "bytes" and _is_binary(part.type) for part in kind)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or getattr(types, "is_binary_view", lambda _: False)(kind))


def _columns(schema: Any, kind: Kind, image: str | None, file: SourceFile, pass_over: PassOver | None) -> dict[str, Convert]:
    """The columns that are read, each with the function that makes its values plain."""
    if len(set(schema.names)) < len(schema.names):
        raise SourceError("two columns have the same name", expected="a different name for each column")
    text = next((name for name in ("text", "caption") if name in schema.names), None)
    if kind == "text" and text is None:
        raise SourceError("no column holds texts", expected="text or caption")
    if kind == "image" and image is None and not {"uri", "path"} & set(schema.names):
        raise SourceError("no column names or holds images", expected="uri, path, or the column of --image-column")
    own = {"uri", "id", *(["text"] if kind == "text" else ())}
    columns: dict[str, Convert] = {}
    for column in schema:
        if column.name == image:
            columns[column.name] = _content
            continue
        convert = _converter(column.type)
        reason = f"is of type {column.type}" if convert is None else ""
        if is_taken(column.name) and column.name not in own:
            reason = "has a name that the collection uses"
        if reason or convert is None:
            if pass_over:
                pass_over(f"column '{column.name[:80]}', which {reason[:200]},", f"column {column.name}")
            continue
        columns[column.name] = convert
    return columns


def _content(value: Any) -> Any:
    return value.get("bytes") if isinstance(value, dict) else value


def _converter(kind: Any) -> Convert | None:
    """The function that makes values of an Arrow type plain values of JSON; None if there is none."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _converter(kind.value_type)
    if hasattr(kind, "storage_type"):  # an extension type
        return _converter(kind.storage_type)
    if types.is_floating(kind):
        return _float
    if types.is_decimal(kind):
        return _whole if kind.scale == 0 and kind.precision <= 18 else _real if kind.precision <= EXACT else _text
    if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind):
        return _iso
    if types.is_duration(kind):
        return _seconds
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _converter(kind.value_type)
        return None if inner is None else lambda value: value if value is None else [inner(part) for part in value]
    if types.is_struct(kind):
        parts = {part.name: _converter(part.type) for part in kind}
        return None if None in parts.values() else lambda value: _struct(value, parts)
    if types.is_map(kind) and types.is_string(kind.key_type):
        part_of = _converter(kind.item_type)
        return None if part_of is None else lambda value: value if value is None else {k: part_of(v) for k, v in value}
    plain = types.is_boolean(kind) or types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)
    return _same if plain or types.is_null(kind) or getattr(types, "is_string_view", lambda _: False)(kind) else None


def _struct(value: Any, parts: dict[str, Any]) -> Any:
    return value if value is None else {name: parts[name](part) for name, part in value.items()}


def _same(value: Any) -> Any:
    return value


def _float(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)  # pandas writes NaN for a missing number


def _whole(value: decimal.Decimal | None) -> int | None:
    return value if value is None else int(value)


def _real(value: decimal.Decimal | None) -> float | None:
    return value if value is None else float(value)


def _text(value: decimal.Decimal | None) -> str | None:
    return value if value is None else str(value)


def _iso(value: Any) -> str | None:
    return value if value is None else str(value.isoformat())


def _seconds(value: datetime.timedelta | None) -> float | None:
    return value if value is None else value.total_seconds()
