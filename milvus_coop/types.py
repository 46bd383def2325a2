"""The records that travel between layers and out to users. They hold data and no logic."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["image", "text"]
_PLACE = re.compile(r"^(line|row) [0-9]+: ")
_NUMBER = re.compile(r"[0-9][0-9,.]*")


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text that its row holds."""

    text: str
    states: str = ""
    """base64 of what the cross-encoder reads of the encoded text; see `models.text_states`. '' if the row holds nothing of it: the
    text is then encoded for every query that needs it."""


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """Image tokens that their row holds."""

    encoded: str
    """base64 of the quantised tokens; see `models.tokens`."""


@dataclass(frozen=True, slots=True)
class TokenFile:
    """Image tokens in a file of the collection's token store."""

    key: str
    """The name of the file."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image whose tokens are kept nowhere. The cross-encoder reads the image itself, which is opened again for every query."""

    uri: str


Content = StoredText | StoredTokens | TokenFile | ImageFile
"""The text or the image tokens that the cross-encoder reads for an item, or the place where they are kept. All rows of a collection
hold the same type."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row that Milvus returned for a query. Candidates come in BE order."""

    id: str
    uri: str
    be_score: float
    content: Content | None
    """None if the row has nothing that the cross-encoder can read. This happens only in collections that milvus-coop did not
    make."""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search hit."""

    id: str
    uri: str
    rank: int
    """The rank in the whole ranking, whatever `offset` is; 1 is best."""
    score: float
    """The score that decides the order: `be_score` if the CE did not rerank this hit; otherwise `ce_score`, or the CE's
    logit + `be_score` for the score `sum`."""
    be_rank: int
    """The rank by the bi-encoder alone; 1 is best. In results of `CoopSearch.rerank`: the position in the given order."""
    be_score: float
    """Cosine similarity in [-1, 1]."""
    ce_score: float | None
    """Match probability in [0, 1]; None if the cross-encoder did not rerank this hit."""
    text: str | None = None
    """The text itself; None in collections of images."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The metadata that `output_fields` asked for."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock time of each stage, in milliseconds."""

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class SearchResult(Sequence[Hit]):
    """The hits of one query, best first, and facts about how they were found."""

    hits: tuple[Hit, ...]
    reranked: bool
    """True if the cross-encoder reranked all k candidates."""
    reranked_count: int
    """Number of candidates that the cross-encoder reranked, counted from the best in BE order."""
    candidates: int
    """Number of candidates that Milvus returned: at most k, or `offset + limit` if that is larger."""
    reason: str | None
    """The reason why `reranked` is False; None when it is True."""
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
    """Size of the source file in bytes; for a text, the size of the UTF-8 text."""
    mtime_ns: int
    """Modification time of the source file in nanoseconds; 0 for texts."""
    embedding: Array
    """float32 of shape (dim,), unit length."""
    content: Content
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stamp:
    """The facts that a collection keeps about an item's source, to detect whether it changed."""

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
    """`name version` of the bundle that the collection was made with, or ''."""
    fingerprint: str
    dim: int
    count: int
    index: str
    """Type and metric of the index, for example `HNSW COSINE`."""
    tokens: str = ""
    """The place where the cross-encoder finds the image tokens, or the states of texts. '' for a collection that keeps no states of
    its texts: because the bundle has none, or because an earlier version made the collection."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One item that could not be ingested."""

    uri: str
    reason: str
    may_pass: bool = False
    """True if the reason may pass by itself, such as a lost connection."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """The result of one ingest. `added + updated + unchanged + len(failures)` is the number of items it saw."""

    added: int
    updated: int
    unchanged: int
    removed: int
    failures: tuple[Failure, ...]
    seconds: float
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Number of images in the folders that were passed over because files of their kind cannot be read, by suffix."""
    skipped: int = 0
    """Number of items that were not looked at, because an earlier run with the same state finished their part of the sources."""
    skipped_failed: int = 0
    """Number of those that had failed then."""

    @property
    def reasons(self) -> dict[str, int]:
        """Number of failures by the kind of their reason, the most frequent first; all after the twentieth are one, `other`.

        The kind is the beginning of the reason, with N for numbers.
        """
        reasons = (_PLACE.sub("", failure.reason) for failure in self.failures)
        kinds = Counter(_NUMBER.sub("N", reason.partition(":")[0].partition(";")[0]) for reason in reasons)
        first = dict(kinds.most_common(20))
        other = kinds.total() - sum(first.values())
        return {**first, "other": other} if other else first

    @property
    def failed(self) -> int:
        """Number of items that could not be ingested."""
        return len(self.failures)

    @property
    def seen(self) -> int:
        """Number of items the sources named."""
        return self.added + self.updated + self.unchanged + self.failed
