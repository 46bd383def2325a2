"""Rows as Parquet: the columns that Milvus' bulk import reads.

A column for each field of the collection's schema, and `$meta`, the other metadata of a row as JSON. pymilvus' bulk writer makes
the same columns.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milvus_coop.errors import MissingPackageError, SourceError
from milvus_coop.store.layout import Layout
from milvus_coop.store.rows import Record, row_of
from milvus_coop.store.schema import TEXT_STATES
from milvus_coop.types import Array, Row

if TYPE_CHECKING:
    import pyarrow

META = "$meta"
GROUP_BYTES = 32 * 2**20
"""Rough size of a row group; a server keeps whole groups in memory while it imports them."""
GROUP_ROWS = 1000
"""Minimum number of rows in a group."""


def check_installed() -> None:
    """Check that pyarrow is installed.

    Raises:
        MissingPackageError: it is not.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as exc:
        raise MissingPackageError("Parquet files need pyarrow, which is not installed", run="pip install pyarrow") from exc


def arrow_schema(layout: Layout) -> pyarrow.Schema:
    """The columns of a file, in the order of the collection's schema."""
    import pyarrow as pa

    fields: dict[str, Any] = {"id": pa.string(), "uri": pa.string(), "digest": pa.string(), "size": pa.int64()}
    fields |= {"mtime_ns": pa.int64(), layout.embedding: pa.list_(pa.float32())}
    if layout.content_field is not None:
        fields |= dict.fromkeys(layout.content_field.limits, pa.string())
    if (key := layout.partition_key) is not None:
        fields[key.name] = pa.string() if key.is_text else pa.int64()
    return pa.schema([*fields.items(), (META, pa.string())])


def write_parquet(sized: Sequence[tuple[Record, int]], layout: Layout) -> bytes:
    """The content of a Parquet file with these records, which `rows.records` made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(layout)
    rows = [record for record, _ in sized]
    columns = {name: [row[name] for row in rows] for name in schema.names if name not in (layout.embedding, META)}
    vectors = np.stack([row[layout.embedding] for row in rows]).astype(np.float32, copy=False)
    offsets = np.arange(0, vectors.size + 1, layout.dim, dtype=np.int32)
    columns[layout.embedding] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()))
    known = set(schema.names)
    columns[META] = [json.dumps({k: v for k, v in row.items() if k not in known}, ensure_ascii=False) for row in rows]
    per_group = max(GROUP_ROWS, GROUP_BYTES * len(sized) // max(1, sum(n_bytes for _, n_bytes in sized)))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, row_group_size=per_group)
    return buffer.getvalue()


def read_parquet(content: bytes, layout: Layout, source: str) -> list[Row]:
    """The rows of a Parquet file. Columns that the layout does not name become metadata.

    The states of texts may be missing, as in files of earlier versions. They are left out if the layout has no field for them.

    Raises:
        SourceError: this is no Parquet file of rows of that layout. The message names the `source`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {field.name: field.type for field in arrow_schema(dataclasses.replace(layout, partition_key=None))}
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(f"{source} is no Parquet file: {str(exc)[:200]}") from exc
    states = wanted.pop(TEXT_STATES, None)
    if states is None and TEXT_STATES in table.schema.names:
        table = table.drop_columns([TEXT_STATES])
    found = {field.name: field.type for field in table.schema}
    wanted |= {TEXT_STATES: states} if TEXT_STATES in found else {}
    if different := [f"{name} {kind}" for name, kind in wanted.items() if found.get(name) != kind]:
        raise SourceError(
            f"{source} has no column {different[0]}", expected=", ".join(f"{name} {kind}" for name, kind in wanted.items())
        )
    vectors = _vectors(table.column(layout.embedding), layout.dim, source)
    others = [name for name in table.schema.names if name not in (layout.embedding, META)]
    columns = [table.column(name).to_pylist() for name in others]
    metas = table.column(META).to_pylist()
    rows = []
    for vector, meta, *values in zip(vectors, metas, *columns, strict=True):
        record = {**json.loads(meta or "{}"), **dict(zip(others, values, strict=True)), layout.embedding: vector}
        rows.append(row_of(record, layout))
    return rows


def _vectors(column: pyarrow.ChunkedArray, dim: int, source: str) -> Array:
    """The embeddings, float32 of shape (rows, dim)."""
    values = np.concatenate(
        [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks] or [np.empty(0, np.float32)]
    )
    if values.size != len(column) * dim:
        raise SourceError(f"{source} holds embeddings of other sizes", expected=f"{dim} numbers each")
    return values.reshape(len(column), dim)
