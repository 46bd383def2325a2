"""What the API takes and gives, as its OpenAPI document shows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from milvus_coop.types import Kind

CollectionName = Annotated[str, Field(max_length=255, description="Name of a collection; default the service's own.")]


class SearchRequest(BaseModel):
    """A text or a picture to search with, and how."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "a dog on the beach", "limit": 5},
                {"text": "a dog", "k": 20, "filter": "year > 2020", "output_fields": ["year"], "deadline_ms": 50},
            ]
        },
    )

    collection: CollectionName | None = None
    text: str | None = Field(None, description="What to look for, up to 20,000 characters; or `image`.")
    image: Base64Bytes | None = Field(None, description="A picture's file in base64, instead of `text`.")
    limit: int = Field(10, ge=1, description="How many hits to return.")
    k: int | None = Field(
        None, ge=1, description="How many candidates the cross-encoder rescores; default 50, or `limit` if that is more."
    )
    filter: str = Field("", max_length=65_535, description="A Milvus expression over metadata.")
    output_fields: list[str] = Field([], max_length=64, description="Metadata to return; `*`: all.")
    rerank: bool = Field(True, description="False: the bi-encoder's order.")
    deadline_ms: float | None = Field(None, gt=0, description="Stop rescoring so that the search ends within this time.")
    score: Literal["ce", "sum"] | None = Field(
        None, description="Order by match probability, or by the cross-encoder's logit + cosine; default the bundle's."
    )


class SearchHit(BaseModel):
    """One hit."""

    id: str
    uri: str
    rank: int = Field(description="1 is best.")
    score: float = Field(description="What the order follows.")
    be_rank: int = Field(description="The rank that the bi-encoder alone gives.")
    be_score: float = Field(description="Cosine similarity, -1 to 1.")
    ce_score: float | None = Field(description="Match probability, 0 to 1; null where the cross-encoder did not rescore.")
    text: str | None = Field(description="The text itself, in collections of texts.")
    fields: dict[str, Any] = Field(description="What `output_fields` asked for.")
    thumbnail: str | None = Field(description="Where a small picture is, relative to this service; null in collections of texts.")


class StageTimings(BaseModel):
    """Milliseconds of each stage."""

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    total_ms: float


class Query(BaseModel):
    """What was searched with."""

    kind: Kind
    text: str | None = None


class SearchResponse(BaseModel):
    """Hits, best first, and how they came about."""

    collection: str
    kind: Kind = Field(description="What the collection holds.")
    query: Query
    hits: list[SearchHit]
    reranked: bool = Field(description="Whether the cross-encoder rescored every one of the k candidates.")
    rescored: int
    candidates: int
    reason: str | None = Field(description="Why `reranked` is false.")
    timings: StageTimings


class CollectionSummary(BaseModel):
    """One collection."""

    name: str
    kind: Kind | None = Field(description="null for a collection that milvus-coop did not make.")
    bundle: str
    fingerprint: str
    dim: int
    count: int
    index: str
    searchable: bool = Field(description="Whether this service's bundle made it.")
    default: bool = Field(description="Whether requests that name no collection mean this one.")


class Collections(BaseModel):
    """All collections of the Milvus database, by name."""

    collections: list[CollectionSummary]


class UploadedItem(BaseModel):
    """A picture that is in the collection now."""

    file: str = Field(description="The name it was uploaded with.")
    id: str
    uri: str
    thumbnail: str


class UploadFailure(BaseModel):
    """A picture that is not."""

    file: str
    reason: str


class UploadResponse(BaseModel):
    """What an upload did."""

    collection: str
    added: int
    updated: int
    unchanged: int
    failed: int
    items: list[UploadedItem]
    failures: list[UploadFailure]
    seconds: float


class Readiness(BaseModel):
    """Whether the service can answer."""

    status: Literal["ready", "not ready"]
    problems: dict[str, str] = Field({}, description="What is wrong, by part: `milvus`, `models`.")
