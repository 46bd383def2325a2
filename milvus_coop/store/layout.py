"""The layout of a collection: which field holds the id, the uri, the embedding and the content that the cross-encoder reads.

Collections of this package have the fields of its schema. For other collections, the user names the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymilvus import DataType

from milvus_coop.bundle.spec import BundleSpec, Keep
from milvus_coop.errors import ForeignCollectionError, InvalidArgumentError, quoted
from milvus_coop.store.schema import (
    CONTENT_FIELDS,
    EMBEDDING,
    KEY_BYTES_MOST,
    RESERVED,
    TEXT_STATES,
    CollectionOptions,
    Header,
    content_bytes,
    states_bytes,
)
from milvus_coop.types import CollectionInfo, Content, ImageFile, Kind, Row, StoredText, StoredTokens, TokenFile

_ANY = tuple(DataType)
METRICS = ("COSINE", "IP")
"""Supported metrics. In both, higher is better. IP equals the cosine if the stored embeddings have unit length, as here."""

_IMAGE_CONTENTS: Mapping[Keep, type[StoredTokens] | type[TokenFile]] = {"collection": StoredTokens, "store": TokenFile}


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields of a collection that milvus-coop did not make. Such a collection can be searched but not written."""

    id: str = "id"
    """The primary field: a VARCHAR, or an INT64. The id of a candidate is then the decimal form of the number."""
    uri: str = "uri"
    embedding: str = "embedding"
    content: str | None = None
    """The VARCHAR with image tokens or the text. None: the collection has neither, so the cross-encoder cannot rerank, unless the
    bundle keeps tokens nowhere and opens images at their uri."""
    kind: Kind = "image"
    """The kind of the items: `image` or `text`."""


@dataclass(frozen=True, slots=True)
class ContentField:
    """The VARCHAR field that holds the content of each row, and a second one for the states of texts if there are any."""

    name: str
    holds: type[StoredText] | type[StoredTokens] | type[TokenFile]
    """The type of content that the strings in the field stand for."""
    max_bytes: int
    states_bytes: int = 0
    """Maximum size of the states of a text; 0 if the collection has no field for them."""

    @property
    def limits(self) -> dict[str, int]:
        """The maximum size of each field by name."""
        return {self.name: self.max_bytes} | ({TEXT_STATES: self.states_bytes} if self.states_bytes else {})

    def content(self, record: Mapping[str, Any]) -> Content | None:
        """The content of a row, from its fields by name."""
        string = record.get(self.name)
        if string is None:
            return None
        if self.holds is StoredText and self.states_bytes:
            return StoredText(string, record.get(TEXT_STATES) or "")
        return self.holds(string)

    def strings(self, row: Row) -> dict[str, str]:
        """The strings that the fields hold for the content of a row, by name.

        Raises:
            InvalidArgumentError: the content has another type.
        """
        if not isinstance(row.content, self.holds):
            raise InvalidArgumentError(
                f"the content of '{row.uri}' is of type {type(row.content).__name__}", expected=self.holds.__name__
            )
        states = {TEXT_STATES: row.content.states} if isinstance(row.content, StoredText) and self.states_bytes else {}
        return {self.name: string_of(row.content), **states}


@dataclass(frozen=True, slots=True)
class PartitionKey:
    """The metadata by whose values a server keeps rows apart. Every row has it, as a field of its own."""

    name: str
    is_text: bool
    max_bytes: int = KEY_BYTES_MOST

    def problem(self, metadata: Mapping[str, Any]) -> str:
        """The reason why a row cannot have this metadata; '' if it can."""
        value = metadata.get(self.name)
        wanted = f"a text of at most {self.max_bytes} bytes" if self.is_text else "a whole number of 64 bits"
        if value is None:
            return f"its metadata has no '{self.name}', the partition key of the collection; expected: {wanted}"
        if self.is_text:
            fits = isinstance(value, str) and len(value.encode(errors="replace")) <= self.max_bytes
        else:
            fits = isinstance(value, int) and not isinstance(value, bool)
        return "" if fits else f"its '{self.name}', the partition key of the collection, is {quoted(value)}; expected: {wanted}"


def string_of(content: Content) -> str:
    """The string that a row holds for a content; '' if the row holds nothing beside the uri."""
    match content:
        case StoredText(string) | StoredTokens(string) | TokenFile(string):
            return string
        case ImageFile():
            return ""


def content_size(content: Content) -> int:
    """The size of what a row holds for a content, in bytes."""
    states = content.states if isinstance(content, StoredText) else ""
    return len(string_of(content).encode()) + len(states)


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that readers and writers need to know about the fields of a collection."""

    kind: Kind
    id: str
    uri: str
    embedding: str
    content_field: ContentField | None
    """None: no field holds what the cross-encoder reads."""
    dim: int
    index_type: str
    metric: str
    schema_fields: frozenset[str]
    """Names of all fields of the schema, without the partition key. All other fields of a row are metadata."""
    numeric_ids: bool
    """True if the primary field is INT64."""
    ours: bool
    """True if milvus-coop made the collection; only then it may write to it."""
    keep: Keep
    """The place where the image tokens are kept; `collection` for texts."""
    partition_key: PartitionKey | None = None

    def content(self, record: Mapping[str, Any]) -> Content | None:
        """The content of a row, from its fields by name."""
        if self.keep == "nowhere":
            return ImageFile(str(record.get(self.uri, "")))
        return None if self.content_field is None else self.content_field.content(record)


Description = Mapping[str, Any]
"""The result of Milvus' describe_collection."""


def own_layout(header: Header, description: Description, index: Mapping[str, Any]) -> Layout:
    """The layout of a collection that milvus-coop made."""
    keep = own_keep(header, description)
    content = None if keep == "nowhere" else CONTENT_FIELDS[header.kind]
    return _layout(Fields("id", "uri", EMBEDDING, content, header.kind), keep, description, index, ours=True)


def bundle_layout(spec: BundleSpec, kind: Kind, options: CollectionOptions) -> Layout:
    """The layout that a new collection will have."""
    keep: Keep = spec.tokens.keep if kind == "image" else "collection"
    n_bytes, content = content_bytes(spec, kind), CONTENT_FIELDS[kind]
    holds = StoredText if kind == "text" else _IMAGE_CONTENTS.get(keep)
    field = None if holds is None else ContentField(content, holds, n_bytes, states_bytes(spec, kind))
    key = PartitionKey(options.partition_key, options.partition_key_type == "text") if options.partition_key else None
    return Layout(
        kind=kind,
        id="id",
        uri="uri",
        embedding=EMBEDDING,
        content_field=field,
        dim=spec.dim,
        index_type="",
        metric="",
        schema_fields=RESERVED - {*CONTENT_FIELDS.values(), TEXT_STATES} | set(field.limits if field else ()),
        numeric_ids=False,
        ours=True,
        keep=keep,
        partition_key=key,
    )


def own_keep(header: Header, description: Description) -> Keep:
    """The place where a collection that milvus-coop made keeps its image tokens."""
    if header.token_id:
        return "store"
    return "collection" if any(f["name"] == CONTENT_FIELDS[header.kind] for f in description["fields"]) else "nowhere"


def foreign_layout(fields: Fields, spec: BundleSpec | None, description: Description, index: Mapping[str, Any]) -> Layout:
    """The layout of a collection that milvus-coop did not make.

    Raises:
        ForeignCollectionError: a named field is missing or has the wrong type, or the embeddings do not fit the bundle.
    """
    name = description["collection_name"]
    types = {f["name"]: f["type"] for f in description["fields"]}
    wanted = {fields.id: (DataType.VARCHAR, DataType.INT64), fields.embedding: (DataType.FLOAT_VECTOR,)}
    if fields.content is not None:
        wanted[fields.content] = (DataType.VARCHAR,)
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
    opens_images = fields.kind == "image" and spec is not None and spec.tokens.keep == "nowhere"
    layout = _layout(fields, "nowhere" if opens_images else "collection", description, index, ours=False)
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


def has_states(description: Description) -> bool:
    """True if a collection has a field for the states of texts."""
    return any(f["name"] == TEXT_STATES for f in description["fields"])


def token_place(header: Header | None, keep: Keep, location: object, states: bool) -> str:
    """The place of a collection's image tokens or text states, for people.

    It is '' for texts without states, and for collections that milvus-coop did not make.
    """
    if header is None or (header.kind == "text" and not states):
        return ""
    places: Mapping[Keep, str] = {
        "collection": "in the collection",
        "store": str(location),
        "nowhere": "none: images are opened for every query, which is slow",
    }
    return places[keep]


def _layout(fields: Fields, keep: Keep, description: Description, index: Mapping[str, Any], *, ours: bool) -> Layout:
    params = {f["name"]: f["params"] for f in description["fields"]}
    content_field = None
    if fields.content is not None and keep != "nowhere":
        holds = StoredText if fields.kind == "text" else _IMAGE_CONTENTS[keep]
        states = int(params[TEXT_STATES]["max_length"]) if ours and fields.kind == "text" and has_states(description) else 0
        content_field = ContentField(fields.content, holds, int(params[fields.content]["max_length"]), states)
    keys = [f for f in description["fields"] if ours and f.get("is_partition_key")]
    key = PartitionKey(keys[0]["name"], keys[0]["type"] == DataType.VARCHAR) if keys else None
    return Layout(
        kind=fields.kind,
        id=fields.id,
        uri=fields.uri,
        embedding=fields.embedding,
        content_field=content_field,
        dim=vector_dim(description, fields.embedding),
        index_type=str(index.get("index_type", "")),
        metric=str(index.get("metric_type", "")),
        schema_fields=frozenset(params) - {key.name if key else ""},
        numeric_ids=any(f["name"] == fields.id and f["type"] == DataType.INT64 for f in description["fields"]),
        ours=ours,
        keep=keep,
        partition_key=key,
    )
