"""Which field of a collection is what: ours by our schema, a foreign collection's by the names its owner gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pymilvus import DataType

from milvus_coop.bundle.spec import BundleSpec, Keep
from milvus_coop.errors import ForeignCollectionError
from milvus_coop.store.schema import EMBEDDING, PAYLOAD_FIELDS, Header
from milvus_coop.types import CollectionInfo, Kind

_ANY = tuple(DataType)
METRICS = ("COSINE", "IP")
"""Higher is better in both. IP is the cosine similarity where the stored embeddings have unit length, as a bi-encoder's have."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields of a collection that milvus-coop did not make. Such a collection can be searched, not written."""

    id: str = "id"
    """The primary field: VARCHAR, or INT64 (then a candidate's id is its decimal form)."""
    uri: str = "uri"
    embedding: str = "embedding"
    payload: str | None = None
    """The VARCHAR with image tokens or the text; None: the collection has neither, and only the bi-encoder can rank."""
    kind: Kind = "image"
    """What the collection holds."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that reading and writing need to know of a collection's fields."""

    kind: Kind
    id: str
    uri: str
    embedding: str
    payload: str | None
    payload_bytes: int
    """Most bytes of a payload."""
    dim: int
    index_type: str
    metric: str
    schema_fields: frozenset[str]
    """Names of all fields of the schema; what else a row has is its metadata."""
    numeric_ids: bool
    """Whether the primary field is INT64."""
    ours: bool
    """Whether milvus-coop made it, so that it may write to it."""
    keep: Keep = "collection"
    """What the payload of pictures is: their tokens, the key of a token file, or nothing."""


Description = Mapping[str, Any]
"""What Milvus' describe_collection returns."""


def own_layout(header: Header, description: Description, index: Mapping[str, Any]) -> Layout:
    """The layout of a collection with our header."""
    keep = own_keep(header, description)
    payload = None if keep == "image" else PAYLOAD_FIELDS[header.kind]
    layout = _layout(Fields("id", "uri", EMBEDDING, payload, header.kind), description, index, ours=True)
    return replace(layout, keep=keep)


def own_keep(header: Header, description: Description) -> Keep:
    """Where a collection with our header keeps what the cross-encoder reads."""
    if header.token_id:
        return "store"
    return "collection" if any(f["name"] == PAYLOAD_FIELDS[header.kind] for f in description["fields"]) else "image"


def foreign_layout(fields: Fields, spec: BundleSpec | None, description: Description, index: Mapping[str, Any]) -> Layout:
    """The layout of someone else's collection.

    Raises:
        ForeignCollectionError: a named field is missing or of a wrong type, or the bundle's embeddings do not belong there.
    """
    name = description["collection_name"]
    types = {f["name"]: f["type"] for f in description["fields"]}
    wanted = {fields.id: (DataType.VARCHAR, DataType.INT64), fields.embedding: (DataType.FLOAT_VECTOR,)}
    if fields.payload is not None:
        wanted[fields.payload] = (DataType.VARCHAR,)
    if not description.get("enable_dynamic_field"):
        wanted.setdefault(fields.uri, _ANY)
    for field, allowed in wanted.items():
        if types.get(field) not in allowed:
            of_type = " or ".join(t.name for t in allowed) if allowed is not _ANY else "any type"
            raise ForeignCollectionError(
                f"the collection '{name}' has no field '{field}' of {of_type}",
                expected=f"fields= with names from: {', '.join(types)}",
            )
    primary = next(f["name"] for f in description["fields"] if f.get("is_primary"))
    if primary != fields.id:
        raise ForeignCollectionError(f"the primary field of '{name}' is not '{fields.id}'", expected=f"Fields(id='{primary}')")
    layout = _layout(fields, description, index, ours=False)
    if layout.metric not in METRICS:
        raise ForeignCollectionError(
            f"the index of '{name}.{fields.embedding}' has the metric {layout.metric or '(none)'}",
            expected="COSINE, or IP over unit vectors: higher must be better",
        )
    if spec is not None and layout.dim != spec.dim:
        raise ForeignCollectionError(
            f"the embeddings of '{name}' have {layout.dim} numbers", expected=f"{spec.dim}, as bundle {spec.label} makes them"
        )
    return layout


def vector_dim(description: Description, field: str = "") -> int:
    """Length of the vectors in that field, or in the first vector field; 0 where there is none."""
    for f in description["fields"]:
        if f["params"].get("dim") and field in ("", f["name"]):
            return int(f["params"]["dim"])
    return 0


def summary(
    name: str, header: Header | None, dim: int, index_type: str, metric: str, count: int, tokens: str = ""
) -> CollectionInfo:
    """What users see of a collection."""
    return CollectionInfo(
        name=name,
        kind=header.kind if header else None,
        bundle=header.bundle if header else "",
        fingerprint=header.fingerprint if header else "",
        dim=dim,
        count=count,
        index=f"{index_type} {metric}".strip(),
        tokens=tokens,
    )


def token_place(header: Header | None, keep: Keep, location: object) -> str:
    """Where the cross-encoder finds the pictures of a collection, for people; '' for texts and for collections of others."""
    if header is None or header.kind == "text":
        return ""
    places: Mapping[Keep, str] = {
        "collection": "in the collection",
        "store": str(location),
        "image": "none: pictures are opened for every query, which is slow",
    }
    return places[keep]


def _layout(fields: Fields, description: Description, index: Mapping[str, Any], *, ours: bool) -> Layout:
    params = {f["name"]: f["params"] for f in description["fields"]}
    return Layout(
        kind=fields.kind,
        id=fields.id,
        uri=fields.uri,
        embedding=fields.embedding,
        payload=fields.payload,
        payload_bytes=int(params[fields.payload]["max_length"]) if fields.payload is not None else 0,
        dim=vector_dim(description, fields.embedding),
        index_type=str(index.get("index_type", "")),
        metric=str(index.get("metric_type", "")),
        schema_fields=frozenset(params),
        numeric_ids=any(f["name"] == fields.id and f["type"] == DataType.INT64 for f in description["fields"]),
        ours=ours,
    )
