"""The results of an evaluation: frozen records without logic, and their JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from milvus_coop.offline.datasets import DataProblem
from milvus_coop.offline.evaluation.bootstrap import Interval
from milvus_coop.offline.evaluation.systems import LABELS, System
from milvus_coop.types import Kind

Direction = Literal["image retrieval", "text retrieval"]
DIRECTIONS: Mapping[Kind, Direction] = {"image": "image retrieval", "text": "text retrieval"}
"""The direction, by the kind of item that is searched for. In image retrieval the queries are texts."""
TextSide = Literal["stored", "encoded", "tokenised"]
"""How the cross-encoder gets a text: its states are stored with it, it is encoded for every query, or it is only tokenised, because
the cross-encoder reads token ids alone."""


@dataclass(frozen=True, slots=True)
class SystemVariant:
    """A system as a row of a table."""

    bundle: str
    system: System
    k: int | None = None
    """Number of candidates that the cross-encoder reranks. None for `be` and `ce`."""

    @property
    def label(self) -> str:
        """The name in tables, such as `Joint+Coop, k=20`."""
        return LABELS[self.system] + (f", k={self.k}" if self.k else "")


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Figures of image retrieval with the captions of one kind."""

    queries: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one system in one language. All figures are shares from 0 to 1, with 95 % bootstrap intervals by image."""

    variant: SystemVariant
    language: str
    figures: Mapping[Direction, Mapping[str, Interval]]
    """Figures by metric: R@1, R@5, R@10, MRR@10, nDCG@10."""
    mean_recall: Interval
    """Mean of the six recalls."""
    gain: Mapping[str, Interval]
    """Difference from the same bundle's BE, paired by query: R@1 of each direction, and `mR`. Empty for the BE itself."""
    kinds: Mapping[str, KindFigures]
    """Figures by kind of caption, if the data has kinds."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The share of queries whose first k candidates hold a right answer. Coop with that k cannot do better at any rank."""

    bundle: str
    language: str
    direction: Direction
    recall: Mapping[int, float]
    """The share by k."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of a time in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one query. Single queries run one after the other, in this process, after a warm-up."""

    variant: SystemVariant
    direction: Direction
    pool: int
    queries: int
    """Number of measured queries. 0 means that the times are estimated from pairs per second."""
    pairs: int
    """Number of pairs that the cross-encoder scores for a query."""
    encode_ms: Quantiles
    ann_ms: Quantiles
    ce_ms: Quantiles
    total_ms: Quantiles


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes of an item in Milvus, without its id, its name and the index."""

    bundle: str
    kind: Kind
    items: int
    embedding_bytes: float
    content_bytes: float
    """Bytes of what the cross-encoder reads: the image tokens as base64 or in a file, or the text."""


@dataclass(frozen=True, slots=True)
class AnnRecall:
    """The share of the exact k nearest items that Milvus' index returned."""

    bundle: str
    direction: Direction
    queries: int
    recall: Mapping[int, float]
    """By k."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An exhaustive run of the cross-encoder that was skipped."""

    bundle: str
    language: str
    pairs: int
    limit: int
    pairs_per_s: float
    """Pairs per second, measured on a few pairs."""

    @property
    def seconds(self) -> float:
        """The estimated time of the skipped run, in seconds."""
        return self.pairs / self.pairs_per_s


@dataclass(frozen=True, slots=True)
class Shown:
    """One item of a ranking in the gallery."""

    item: int
    """The item's number in the corpus."""
    label: str
    """The text, or the image's id."""
    score: float
    right: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A query whose first answer the cross-encoder changed from wrong to right, or from right to wrong."""

    variant: SystemVariant
    language: str
    direction: Direction
    query: int
    label: str
    be_rank: int | None
    """Rank of the first right answer. None if no right answer is among the candidates."""
    coop_rank: int | None
    be: tuple[Shown, ...]
    coop: tuple[Shown, ...]

    @property
    def repaired(self) -> bool:
        """True if the cross-encoder's first answer is right."""
        return self.coop_rank == 1


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """The facts that identify a bundle, and its speed."""

    name: str
    label: str
    kind: str
    fingerprint: str
    pairs_per_s: float
    """Pairs per second of the cross-encoder, in full batches on stored tokens."""
    text_side: TextSide
    """How the cross-encoder gets the stored texts when an image is the query."""


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All results of an evaluation. `to_dict` gives the content of results.json."""

    data: str
    split: str
    protocol: str
    images: int
    texts: Mapping[str, int]
    """Number of distinct texts by language."""
    queries: Mapping[str, Mapping[Direction, int]]
    """Number of queries by language and direction."""
    distractors: int
    """Number of images that are not queries."""
    folds: int
    store: str
    """`Milvus Lite`, or the server's address."""
    machine: str
    created: str
    """Date and time, UTC."""
    seconds: float
    seed: int
    resamples: int
    bundles: tuple[BundleFacts, ...]
    quality: tuple[Quality, ...]
    reach: tuple[Reach, ...]
    cost: tuple[Cost, ...]
    growth: tuple[Cost, ...]
    """Costs of image retrieval in parts of the pool."""
    storage: tuple[Storage, ...]
    ann_recall: tuple[AnnRecall, ...]
    skipped: tuple[Skipped, ...]
    cases: tuple[Case, ...]
    changes: Mapping[str, Mapping[Direction, tuple[int, int]]]
    """By bundle and direction: the numbers of first answers that the cross-encoder repaired and broke with `headline_k`."""
    headline_k: int
    problems: tuple[DataProblem, ...]
    thumbnails: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """JPEG files of the images in `cases`, by number. They are not in the JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "thumbnails"}
        for skipped, record in zip(plain["skipped"], self.skipped, strict=True):
            skipped["seconds_estimated"] = record.seconds
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, SystemVariant):
        return {"bundle": value.bundle, "system": value.system, "k": value.k}
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(content) for key, content in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(content) for content in value]
    return round(value, 6) if isinstance(value, float) else value
