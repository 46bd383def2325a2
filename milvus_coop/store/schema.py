"""The Milvus schema of this package's collections, and the header that says which bundle a collection was made with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pymilvus import CollectionSchema, DataType, MilvusClient
from pymilvus.milvus_client import IndexParams

from milvus_coop.arguments import one_of, whole_number
from milvus_coop.bundle.spec import IMAGE_TOKENS, BundleSpec
from milvus_coop.bundle.text_states import state_bytes, text_states
from milvus_coop.errors import InvalidArgumentError, StoreError, quoted
from milvus_coop.store.token_store import KEY_BYTES
from milvus_coop.types import Kind

Index = Literal["HNSW", "AUTOINDEX"]
BuildIndex = Literal["during", "after"]
KeyType = Literal["text", "integer"]

FORMAT = 1
"""Version of the schema and of the header."""
HEADER = "milvus_coop"
"""Key of the header, in the collection's description (JSON) and in its properties."""

PLANNED_INDEX = "milvus_coop_index"
"""Key of a property: the index that a collection gets when it is complete. Until then it has the index `FLAT`. '' means none."""
FLAT = "FLAT"
"""No index: each search compares the query with every row. A server builds nothing for it."""

ID_BYTES = 64
URI_BYTES = 2048
DIGEST_BYTES = 64
VARCHAR_BYTES = 65_535
"""Milvus' limit for one VARCHAR, and for the dynamic fields of one row, in bytes."""
KEY_BYTES_MOST = 512
"""Maximum size of a partition key that is a text, in bytes."""
MAX_REPLICAS = 1024
MAX_K = 16_384
"""Milvus' limit for the number of hits of one search."""

EMBEDDING = "embedding"
TEXT = "text"
CONTENT_FIELDS: Mapping[Kind, str] = {"image": IMAGE_TOKENS, "text": TEXT}
"""The VARCHAR field that holds the content of a row, by the kind of the collection."""
TEXT_STATES = "text_states"
"""The VARCHAR field beside `text` for what the cross-encoder reads of the encoded text; only for bundles that have such states."""
STAMP_FIELDS = ("uri", "digest", "size", "mtime_ns")
RESERVED = frozenset(("id", *STAMP_FIELDS, EMBEDDING, *CONTENT_FIELDS.values(), TEXT_STATES))
"""Names that metadata cannot use."""

# The embeddings of texts lie apart from those of images. In a graph of images, the neighbours of a text are therefore harder to
# find than the neighbours of an image. docs/growth.md has the recall and the time of searches with these parameters.
HNSW_BUILD = {"M": 16, "efConstruction": 128}
MIN_EF = 600
EF_PER_K = 4
MAX_EF = 32_768
MIN_SEARCH_LIST = 128

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """The options of a new collection: its index, its partition key, and properties for Milvus."""

    index: Index = "HNSW"
    """`HNSW`, or `AUTOINDEX` for managed services that choose an index themselves."""
    build_index: BuildIndex = "during"
    """The time when a server builds the index: `during` the writes, or once `after` them, by `Store.build_index`."""
    partition_key: str = ""
    """The name of metadata by whose values a server keeps rows apart, such as `tenant`. Every row must have it."""
    partition_key_type: KeyType = "text"
    replicas: int = 1
    """Number of copies that a server keeps in memory."""
    mmap: tuple[str, ...] = ()
    """Fields that a server maps from its disk instead of keeping them in memory. This needs Milvus 2.5."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """More properties of the collection, such as `mmap.enabled` or `collection.ttl.seconds`."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidArgumentError: a value has the wrong type or is out of range.
        """
        one_of("index", self.index, get_args(Index))
        one_of("build_index", self.build_index, get_args(BuildIndex))
        one_of("partition_key_type", self.partition_key_type, get_args(KeyType))
        whole_number("replicas", self.replicas, 1, MAX_REPLICAS)
        if self.partition_key and (self.partition_key in RESERVED or not _NAME.fullmatch(self.partition_key)):
            raise InvalidArgumentError(
                f"{quoted(self.partition_key)} cannot be the partition key",
                expected=f"a name of metadata: a letter or _, then letters, digits and _; none of {', '.join(sorted(RESERVED))}",
            )
        if taken := [name for name in self.properties if name.startswith(HEADER)]:
            raise InvalidArgumentError(
                f"the property {quoted(taken[0])} belongs to milvus-coop", expected="a property of Milvus, such as mmap.enabled"
            )

    def with_key(self, name: str, kind: KeyType) -> CollectionOptions:
        """The options with another partition key."""
        return replace(self, partition_key=name, partition_key_type=kind)


DEFAULTS = CollectionOptions()


@dataclass(frozen=True, slots=True)
class Header:
    """The record about itself that a collection carries."""

    kind: Kind
    bundle: str
    """`name version` of the bundle."""
    fingerprint: str
    token_id: str = ""
    """The unique id in the marker of the token files; '' if the collection has no token files."""
    token_store: str = ""
    """The `token_store` setting when the collection was created; '' means beside a Milvus Lite database."""
    replicas: int = 1
    """Number of copies in memory with which the collection is loaded."""

    def to_json(self) -> str:
        """The text that goes into the collection's description and properties."""
        content = {HEADER: FORMAT, "kind": self.kind, "bundle": self.bundle, "fingerprint": self.fingerprint}
        if self.token_id:
            content |= {"token_id": self.token_id}
        if self.token_store:
            content |= {"token_store": self.token_store}
        if self.replicas > 1:
            content |= {"replicas": self.replicas}
        return json.dumps(content)


def read_header(description: Mapping[str, Any]) -> Header | None:
    """The header in the result of Milvus' describe_collection; None if milvus-coop did not make the collection.

    Both the description and the properties of the collection are read: Milvus Lite 3.2 keeps only the properties.

    Raises:
        StoreError: a later version of this package wrote the header.
    """
    properties = description.get("properties") or {}
    for text in (properties.get(HEADER, ""), description.get("description", "")):
        try:
            content = json.loads(text)
            version, kind, replicas = content[HEADER], content["kind"], int(content.get("replicas", 1))
        except (ValueError, KeyError, TypeError):
            continue
        if version != FORMAT or kind not in get_args(Kind):
            raise StoreError(
                f"the collection '{description.get('collection_name')}' has format {version}",
                expected=f"format {FORMAT}",
                run="pip install -U milvus-coop",
            )
        bundle, fingerprint, token_id, token_store = (
            str(content.get(name, "")) for name in ("bundle", "fingerprint", "token_id", "token_store")
        )
        return Header(kind, bundle, fingerprint, token_id, token_store, replicas)
    return None


def check_name(name: str) -> str:
    """Return `name` if it is valid as the name of a Milvus collection.

    Raises:
        InvalidArgumentError: the name is not valid.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{quoted(name)} cannot name a collection", expected="a letter or _, then letters, digits and _, at most 255 in all"
        )
    return name


def content_bytes(spec: BundleSpec, kind: Kind) -> int:
    """Maximum size of the content field in bytes; 0 if there is no such field.

    Raises:
        InvalidArgumentError: the bundle's tokens do not fit a VARCHAR.
    """
    if kind == "text":
        return VARCHAR_BYTES
    if spec.tokens.keep != "collection":
        return KEY_BYTES if spec.tokens.keep == "store" else 0
    base64_bytes = _base64_bytes(spec.tokens.n_bytes)
    if base64_bytes > VARCHAR_BYTES:
        raise InvalidArgumentError(
            f"the image tokens of bundle {spec.label} take {base64_bytes} bytes", expected=f"at most {VARCHAR_BYTES}, Milvus' limit"
        )
    return base64_bytes


def states_bytes(spec: BundleSpec, kind: Kind) -> int:
    """Maximum size of the field `TEXT_STATES` in bytes; 0 if there is no such field."""
    return _base64_bytes(state_bytes(text_states(spec), spec.text.max_length)) if kind == "text" else 0


def _base64_bytes(n_bytes: int) -> int:
    return -(-n_bytes // 3) * 4


def collection_schema(spec: BundleSpec, kind: Kind, header: Header, options: CollectionOptions = DEFAULTS) -> CollectionSchema:
    """The schema of a collection of that kind. Metadata goes into dynamic fields, except for the partition key.

    Raises:
        InvalidArgumentError: `options.mmap` names a field that the collection does not have.
    """
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True, description=header.to_json())
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=ID_BYTES)
    schema.add_field("uri", DataType.VARCHAR, max_length=URI_BYTES)
    schema.add_field("digest", DataType.VARCHAR, max_length=DIGEST_BYTES)
    schema.add_field("size", DataType.INT64)
    schema.add_field("mtime_ns", DataType.INT64)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=spec.dim)
    if n_bytes := content_bytes(spec, kind):
        schema.add_field(CONTENT_FIELDS[kind], DataType.VARCHAR, max_length=n_bytes)
    if n_bytes := states_bytes(spec, kind):
        schema.add_field(TEXT_STATES, DataType.VARCHAR, max_length=n_bytes)
    if options.partition_key and options.partition_key_type == "integer":
        schema.add_field(options.partition_key, DataType.INT64, is_partition_key=True)
    elif options.partition_key:
        schema.add_field(options.partition_key, DataType.VARCHAR, max_length=KEY_BYTES_MOST, is_partition_key=True)
    fields = {f.name: f for f in schema.fields}
    for name in options.mmap:
        if name not in fields:
            raise InvalidArgumentError(f"mmap names {quoted(name)}", expected=f"one of {', '.join(fields)}")
        fields[name]._type_params["mmap_enabled"] = True
    return schema


def index_params(index: str) -> IndexParams:
    """Parameters of the embedding's index: HNSW, FLAT, or AUTOINDEX for managed services, where the server chooses."""
    params = MilvusClient.prepare_index_params()
    build = HNSW_BUILD if index == "HNSW" else {}
    params.add_index(EMBEDDING, index_type=index, metric_type="COSINE", params=build)
    return params


def search_params(index_type: str, metric: str, k: int, *, visits_filtered: bool = False) -> dict[str, Any]:
    """Parameters of a search for k neighbours; they decide how thoroughly the index searches.

    Args:
        index_type: the type of the index.
        metric: `COSINE`, `IP` or `L2`.
        k: number of neighbours.
        visits_filtered: True for a search with a filter on Milvus Lite. There, `ef` also counts the rows that the filter excludes,
            so the usual value would miss rows (docs/growth.md).
    """
    params: dict[str, int] = {}
    # A client that opened a collection with FLAT goes on after the collection got HNSW, which without `ef` would search 16 rows.
    if index_type.startswith("HNSW") or index_type == FLAT:
        params = {"ef": MAX_EF if visits_filtered else min(MAX_EF, MIN_EF + EF_PER_K * k)}
    elif index_type.startswith("IVF"):
        params = {"nprobe": 64}
    elif index_type == "DISKANN":
        params = {"search_list": max(MIN_SEARCH_LIST, k)}
    return {"metric_type": metric, "params": params}
