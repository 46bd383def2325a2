"""What an evaluation found: frozen records without logic, and their JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from milvus_coop.offline.datasets import Problem
from milvus_coop.offline.evaluation.bootstrap import Interval
from milvus_coop.offline.evaluation.systems import LABELS, System
from milvus_coop.types import Kind

Direction = Literal["image retrieval", "text retrieval"]
DIRECTIONS: Mapping[Kind, Direction] = {"image": "image retrieval", "text": "text retrieval"}
"""By what is searched for: texts ask for images, images ask for texts."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A system as a row of a table."""

    bundle: str
    system: System
    k: int | None = None
    """How many candidates the cross-encoder rescores; None for `be` and `ce`."""

    @property
    def label(self) -> str:
        """`Joint+Coop, k=20`."""
        return LABELS[self.system] + (f", k={self.k}" if self.k else "")


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Image retrieval with the captions of one kind."""

    queries: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well one system answers, in one language. Shares from 0 to 1 with 95 % bootstrap intervals over queries."""

    contestant: Contestant
    language: str
    figures: Mapping[Direction, Mapping[str, Interval]]
    """By metric: R@1, R@5, R@10, MRR@10, nDCG@10."""
    mean_recall: Interval
    """Mean of the six recalls."""
    gain: Mapping[str, Interval]
    """Difference to the same bundle's BE, paired by query: R@1 of either direction, and `mR`. Empty for the BE itself."""
    kinds: Mapping[str, KindFigures]
    """By kind of caption, where the data has kinds."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How often the bi-encoder's first k hold a right answer: no Coop with that k can be better at any rank."""

    bundle: str
    language: str
    direction: Direction
    recall: Mapping[int, float]
    """By k."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one query costs: single queries, one after the other, in this process, after a warm-up."""

    contestant: Contestant
    direction: Direction
    pool: int
    queries: int
    """How many were measured; 0: the times are estimated from pairs per second."""
    pairs: int
    """That the cross-encoder scores for a query."""
    encode_ms: Quantiles
    ann_ms: Quantiles
    ce_ms: Quantiles
    total_ms: Quantiles


@dataclass(frozen=True, slots=True)
class Storage:
    """What an item takes in Milvus, beside its id and name; without the index."""

    bundle: str
    kind: Kind
    items: int
    embedding_bytes: float
    payload_bytes: float
    """Image tokens as base64, or the text."""


@dataclass(frozen=True, slots=True)
class AnnRecall:
    """Share of the exact k nearest items that Milvus' index returned."""

    bundle: str
    direction: Direction
    queries: int
    recall: Mapping[int, float]
    """By k."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An exhaustive cross-encoder run that was not done."""

    bundle: str
    language: str
    pairs: int
    limit: int
    pairs_per_s: float
    """Measured on a few pairs."""

    @property
    def seconds(self) -> float:
        """What it would have taken."""
        return self.pairs / self.pairs_per_s


@dataclass(frozen=True, slots=True)
class Shown:
    """One item of a ranking in the gallery."""

    item: int
    """Number in the corpus."""
    label: str
    """The text, or the image's id."""
    score: float
    right: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A query whose first answer the cross-encoder changed from wrong to right, or from right to wrong."""

    contestant: Contestant
    language: str
    direction: Direction
    query: int
    label: str
    be_rank: int | None
    """Of the first right answer; None: not among the candidates."""
    coop_rank: int | None
    be: tuple[Shown, ...]
    coop: tuple[Shown, ...]

    @property
    def repaired(self) -> bool:
        """Whether the change was for the better."""
        return self.coop_rank == 1


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """Which model it was."""

    name: str
    label: str
    kind: str
    fingerprint: str
    pairs_per_s: float
    """Of the cross-encoder, in full batches on stored tokens."""


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Everything. `to_dict` is the content of results.json."""

    data: str
    split: str
    protocol: str
    images: int
    texts: Mapping[str, int]
    """Distinct texts by language."""
    queries: Mapping[str, Mapping[Direction, int]]
    """By language."""
    distractors: int
    """Images that are no queries."""
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
    """Image retrieval in parts of the pool."""
    storage: tuple[Storage, ...]
    ann_recall: tuple[AnnRecall, ...]
    skipped: tuple[Skipped, ...]
    cases: tuple[Case, ...]
    changes: Mapping[str, Mapping[Direction, tuple[int, int]]]
    """By bundle: how many first answers the cross-encoder repaired and broke, with `headline_k`."""
    headline_k: int
    problems: tuple[Problem, ...]
    thumbnails: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """JPEG files of the images in `cases`, by number; not in the JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "thumbnails"}
        for skipped, record in zip(plain["skipped"], self.skipped, strict=True):
            skipped["seconds_estimated"] = record.seconds
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Contestant):
        return {"bundle": value.bundle, "system": value.system, "k": value.k}
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(content) for key, content in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(content) for content in value]
    return round(value, 6) if isinstance(value, float) else value
