"""Turns a `Row` into the record that Milvus stores. Rows are checked before anything is written, and split into requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from milvus_coop.arguments import many
from milvus_coop.errors import InvalidArgumentError, StoreError
from milvus_coop.store.layout import ContentField, Layout
from milvus_coop.store.metadata import plain_metadata
from milvus_coop.store.schema import DIGEST_BYTES, EMBEDDING, ID_BYTES, URI_BYTES, VARCHAR_BYTES
from milvus_coop.types import ImageFile, Row

REQUEST_BYTES = 32 * 2**20
"""Maximum size of one write request in bytes. A server refuses 64 MiB and more; half of that leaves room for protobuf overhead."""
ROW_OVERHEAD_BYTES = 64
IDS_PER_CALL = 2000
"""Maximum number of ids in one `id in [...]`. With Strong consistency, a server takes 0.4 s for 2,000 ids, and also for 6,000."""
INT64_MAX = 2**63 - 1

_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")

Record = dict[str, Any]


def records(rows: Sequence[Row], layout: Layout) -> list[tuple[Record, int]]:
    """The Milvus records of rows for a collection of that layout, and their sizes in bytes.

    If several rows have the same id, only the last one is kept.

    Raises:
        InvalidArgumentError: a row does not fit; the message names it.
    """
    last = {row.id: row for row in rows}
    return [_record(row, layout) for row in last.values()]


def requests(sized: Sequence[tuple[Record, int]], limit_bytes: int = REQUEST_BYTES) -> Iterator[tuple[list[Record], int]]:
    """Split records into requests of at most `limit_bytes`, each with its size. A larger record gets a request of its own."""
    run: list[Record] = []
    run_bytes = 0
    for record, n_bytes in sized:
        if run and run_bytes + n_bytes > limit_bytes:
            yield run, run_bytes
            run, run_bytes = [], 0
        run.append(record)
        run_bytes += n_bytes
    if run:
        yield run, run_bytes


def literal(text: str, limit_bytes: int = ID_BYTES) -> str:
    """`text` as a string literal of a Milvus filter. Quotes are escaped, so that no text can end the literal.

    Raises:
        InvalidArgumentError: the text is too long, or holds control characters, which Milvus' literals cannot express.
    """
    _check_text("id", text, limit_bytes, text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def among(field: str, ids: Sequence[str]) -> str:
    """The filter that keeps the rows with these ids."""
    return f"{field} in [{', '.join(map(literal, ids))}]"


def among_any(field: str, ids: Sequence[str], *, numeric: bool) -> str:
    """The filter that keeps the rows with these ids. Ids that no row can have are left out; '' if no id is left."""
    if numeric:
        numbers = (int(id) for id in ids if _DECIMAL.fullmatch(id))
        known = [str(number) for number in numbers if abs(number) <= INT64_MAX]
    else:
        known = [text for id in ids if (text := _literal_or_none(id))]
    return f"{field} in [{', '.join(known)}]" if known else ""


def _literal_or_none(text: str) -> str | None:
    try:
        return literal(text, VARCHAR_BYTES)
    except InvalidArgumentError:
        return None


def row_of(record: Mapping[str, Any], layout: Layout) -> Row:
    """The row that a record of that layout stands for.

    Raises:
        StoreError: the record holds no content.
    """
    content = layout.content(record)
    if content is None:  # impossible in a collection of this package
        raise StoreError(f"the row '{record['id']}' holds no content", expected="image tokens, a token file or a text")
    return Row(
        id=record["id"],
        uri=record["uri"],
        digest=record["digest"],
        size=int(record["size"]),
        mtime_ns=int(record["mtime_ns"]),
        embedding=np.asarray(record[layout.embedding], dtype=np.float32),
        content=content,
        metadata={name: value for name, value in record.items() if name not in layout.schema_fields},
    )


def _record(row: Row, layout: Layout) -> tuple[Record, int]:
    dim = layout.dim
    if not row.id:
        raise InvalidArgumentError(f"the id of '{row.uri}' is empty", expected="a stable hash of its uri")
    n_bytes = _check_text("id", row.id, ID_BYTES, row.id)
    n_bytes += _check_text("uri", row.uri, URI_BYTES, row.id)
    n_bytes += _check_text("digest", row.digest, DIGEST_BYTES, row.id)
    content, content_bytes = _content(row, layout.content_field)
    metadata, metadata_bytes = _metadata(row)
    if layout.partition_key is not None and (problem := layout.partition_key.problem(metadata)):
        raise InvalidArgumentError(f"'{row.uri}' cannot be written: {problem}")
    embedding = np.asarray(row.embedding, dtype=np.float32)
    if embedding.shape != (dim,) or not np.isfinite(embedding).all():
        raise InvalidArgumentError(
            f"the embedding of '{row.uri}' has shape {embedding.shape}, or is not finite", expected=f"{dim} finite numbers"
        )
    record = {
        **metadata,
        "id": row.id,
        "uri": row.uri,
        "digest": row.digest,
        "size": int(row.size),
        "mtime_ns": int(row.mtime_ns),
        EMBEDDING: embedding,
        **content,
    }
    return record, n_bytes + content_bytes + metadata_bytes + 4 * dim + ROW_OVERHEAD_BYTES


def _check_text(name: str, text: str, limit_bytes: int, of: str) -> int:
    """Size of a text in bytes, after a check that Milvus can store it and that a filter can name it."""
    n_bytes = _utf8_size(name, text, of)
    if n_bytes > limit_bytes:
        raise InvalidArgumentError(f"the {name} of {of[:100]!r} takes {n_bytes} bytes", expected=f"at most {limit_bytes}")
    if not text.isprintable() and any(ord(c) < 32 for c in text):
        raise InvalidArgumentError(f"the {name} of {of[:100]!r} holds control characters", expected="text on one line")
    return n_bytes


def _content(row: Row, field: ContentField | None) -> tuple[Mapping[str, str], int]:
    """The content fields of a row with their values, and their size in bytes."""
    if field is None:
        if row.content != ImageFile(row.uri):
            raise InvalidArgumentError(
                f"the collection keeps no image tokens, and the content of '{row.uri}' is not the image at its uri",
                expected=f"ImageFile('{row.uri}')",
            )
        return {}, 0
    strings, total = field.strings(row), 0
    for name, limit in field.limits.items():
        n_bytes = _utf8_size(name, strings[name], row.uri)
        if n_bytes > limit:
            raise InvalidArgumentError(f"the {name} of '{row.uri}' takes {n_bytes} bytes", expected=f"at most {limit}")
        total += n_bytes
    return strings, total


def _utf8_size(name: str, text: str, of: str) -> int:
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(
            f"the {name} of {of[:100]!r} is not valid Unicode", expected="text that UTF-8 can write"
        ) from exc


def _metadata(row: Row) -> tuple[Mapping[str, Any], int]:
    """Metadata as plain JSON values, and its size in bytes."""
    if not row.metadata:
        return {}, 0
    try:
        return plain_metadata(row.metadata)
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(f"metadata of {row.uri[:100]!r}: {exc.given}", expected=exc.expected) from exc


def distinct(ids: Iterable[str]) -> list[str]:
    """The ids without repetition, in their order."""
    return list(dict.fromkeys(many("ids", ids, "a list of ids")))


def chunks(ids: Sequence[str], step: int = IDS_PER_CALL) -> Iterator[Sequence[str]]:
    """The ids in parts."""
    for start in range(0, len(ids), step):
        yield ids[start : start + step]
