"""The records that travel between layers and out to users. No logic beyond what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["image", "text"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row that Milvus returned for a query, in BE order."""

    id: str
    uri: str
    be_score: float
    payload: str | None
    """Of a picture its base64 image tokens, or the key of its token file, as the collection keeps them; of a text the text itself;
    None where the collection has nothing of the kind."""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search hit."""

    id: str
    uri: str
    rank: int
    """1 is best."""
    score: float
    """What the order follows: `be_score` where the CE did not rescore it; where it did `ce_score`, or for the score `sum` the CE's
    logit + `be_score`."""
    be_rank: int
    """The rank that the bi-encoder alone gives, 1 is best; of `CoopSearch.rerank`, the place in the order that was given."""
    be_score: float
    """Cosine similarity in [-1, 1]."""
    ce_score: float | None
    """Match probability in [0, 1]; None where the cross-encoder did not rescore this hit."""
    text: str | None = None
    """The text itself, in collections of texts."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What `output_fields` asked for."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock time of each stage, in milliseconds."""

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class SearchResult(Sequence[Hit]):
    """The hits of one query, best first, and how they came about."""

    hits: tuple[Hit, ...]
    reranked: bool
    """True if the cross-encoder rescored every one of the k candidates."""
    rescored: int
    """How many candidates the cross-encoder rescored, in BE order."""
    candidates: int
    """How many candidates Milvus returned (at most k)."""
    reason: str | None
    """Why `reranked` is False; None when it is True."""
    timings: Timings

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


@dataclass(frozen=True, slots=True)
class Row:
    """One item as it is written into a collection."""

    id: str
    uri: str
    digest: str
    size: int
    """Bytes of the source (of the UTF-8 text, for texts)."""
    mtime_ns: int
    """Modification time of the source in nanoseconds; 0 where there is none."""
    embedding: Array
    """float32 of shape (dim,), unit length."""
    payload: str
    """Of a picture its base64 image tokens, the key of its token file, or '', as the bundle keeps them; of a text the text."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a collection knows of an item's source: enough to tell whether it changed."""

    uri: str
    digest: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as `collections describe` shows it."""

    name: str
    kind: Kind | None
    """None for a collection that milvus-coop did not make."""
    bundle: str
    """`name version` of the bundle that made it, or ''."""
    fingerprint: str
    dim: int
    count: int
    index: str
    """`HNSW COSINE`, for example."""
    tokens: str = ""
    """Of pictures: where the cross-encoder finds them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One item that could not be ingested."""

    uri: str
    reason: str


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest did. `added + updated + unchanged + len(failures)` is the number of items it saw."""

    added: int
    updated: int
    unchanged: int
    removed: int
    failures: tuple[Failure, ...]
    seconds: float

    @property
    def failed(self) -> int:
        """Number of items that could not be ingested."""
        return len(self.failures)

    @property
    def seen(self) -> int:
        """Number of items the sources named."""
        return self.added + self.updated + self.unchanged + self.failed
