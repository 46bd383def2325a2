"""The layout of a collection: which field holds the id, the uri, the embedding and the payload.

Collections of this package have the fields of its schema. For other collections, the user names the fields.
"""

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
"""Supported metrics. In both, higher is better. IP equals the cosine if the stored embeddings have unit length, as here."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields of a collection that milvus-coop did not make. Such a collection can be searched but not written."""

    id: str = "id"
    """The primary field: a VARCHAR, or an INT64. The id of a candidate is then the decimal form of the number."""
    uri: str = "uri"
    embedding: str = "embedding"
    payload: str | None = None
    """The VARCHAR with image tokens or the text. None: the collection has neither, so the cross-encoder cannot rerank."""
    kind: Kind = "image"
    """The kind of the items: `image` or `text`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that readers and writers need to know about the fields of a collection."""

    kind: Kind
    id: str
    uri: str
    embedding: str
    payload: str | None
    payload_bytes: int
    """Maximum size of a payload in bytes."""
    dim: int
    index_type: str
    metric: str
    schema_fields: frozenset[str]
    """Names of all fields of the schema. All other fields of a row are metadata."""
    numeric_ids: bool
    """True if the primary field is INT64."""
    ours: bool
    """True if milvus-coop made the collection; only then it may write to it."""
    keep: Keep = "collection"
    """The kind of payload of images: their tokens (`collection`), the key of a token file (`store`), or nothing (`image`)."""


Description = Mapping[str, Any]
"""The result of Milvus' describe_collection."""


def own_layout(header: Header, description: Description, index: Mapping[str, Any]) -> Layout:
    """The layout of a collection that milvus-coop made."""
    keep = own_keep(header, description)
    payload = None if keep == "image" else PAYLOAD_FIELDS[header.kind]
    layout = _layout(Fields("id", "uri", EMBEDDING, payload, header.kind), description, index, ours=True)
    return replace(layout, keep=keep)


def own_keep(header: Header, description: Description) -> Keep:
    """The place where a collection that milvus-coop made keeps its image tokens."""
    if header.token_id:
        return "store"
    return "collection" if any(f["name"] == PAYLOAD_FIELDS[header.kind] for f in description["fields"]) else "image"


def foreign_layout(fields: Fields, spec: BundleSpec | None, description: Description, index: Mapping[str, Any]) -> Layout:
    """The layout of a collection that milvus-coop did not make.

    Raises:
        ForeignCollectionError: a named field is missing or has the wrong type, or the embeddings do not fit the bundle.
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
    """Length of the vectors in that field, or in the first vector field; 0 if there is none."""
    for f in description["fields"]:
        if f["params"].get("dim") and field in ("", f["name"]):
            return int(f["params"]["dim"])
    return 0


def summary(
    name: str, header: Header | None, dim: int, index_type: str, metric: str, count: int, tokens: str = ""
) -> CollectionInfo:
    """The description of a collection for users."""
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
    """The place of a collection's image tokens, for people; '' for texts and for collections that milvus-coop did not make."""
    if header is None or header.kind == "text":
        return ""
    places: Mapping[Keep, str] = {
        "collection": "in the collection",
        "store": str(location),
        "image": "none: images are opened for every query, which is slow",
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
