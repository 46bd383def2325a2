"""Requests and answers of the API, as in its OpenAPI document."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from milvus_coop.search.options import QueryOptions
from milvus_coop.serving.gateway.data_uris import ImageBytes
from milvus_coop.types import Kind

CollectionName = Annotated[str, Field(max_length=255, description="Name of a collection; default the service's own.")]


class SearchRequest(BaseModel):
    """A text or an image to search with, and the options of the search."""

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
    text: str | None = Field(None, description="The text to search with, up to 20,000 characters; or give `image`.")
    image: ImageBytes | None = Field(None, description="The image to search with, in base64 or as a data URI, instead of `text`.")
    limit: int = Field(10, ge=1, description="Number of hits to return.")
    offset: int = Field(0, ge=0, description="Number of the best hits to leave out, for pages.")
    k: int | None = Field(
        None, ge=1, description="Number of candidates that the cross-encoder reranks; default 50, or `limit` if that is larger."
    )
    filter: str = Field("", max_length=65_535, description="A Milvus expression over metadata.")
    output_fields: list[str] = Field([], max_length=64, description="Names of metadata to return; `*` means all.")
    rerank: bool = Field(True, description="If false, the hits come in the bi-encoder's order.")
    deadline_ms: float | None = Field(None, gt=0, description="Time limit of the request; reranking stops in time to keep it.")
    score: Literal["ce", "sum"] | None = Field(
        None, description="Order by match probability, or by the cross-encoder's logit + cosine; default the bundle's."
    )
    min_score: float | None = Field(
        None, description="Leave out hits with a lower match probability, 0 to 1; if `rerank` is false, with a lower cosine."
    )

    @property
    def options(self) -> QueryOptions:
        """The options of the search.

        Raises:
            InvalidArgumentError: a value is out of range.
        """
        return QueryOptions(**{item.name: getattr(self, item.name) for item in fields(QueryOptions)})


class SearchHit(BaseModel):
    """One hit."""

    id: str
    uri: str
    rank: int = Field(description="Rank of the hit; 1 is best.")
    score: float = Field(description="The score that decides the order.")
    be_rank: int = Field(description="Rank by the bi-encoder alone.")
    be_score: float = Field(description="Cosine similarity, -1 to 1.")
    ce_score: float | None = Field(description="Match probability, 0 to 1; null if the cross-encoder did not rerank this hit.")
    text: str | None = Field(description="The text itself; null in collections of images.")
    fields: dict[str, Any] = Field(description="The metadata that `output_fields` asked for.")
    thumbnail: str | None = Field(description="Address of a small image, relative to this service; null in collections of texts.")


class StageTimings(BaseModel):
    """Time of each stage, in milliseconds."""

    encode_ms: float
    retrieve_ms: float
    rerank_ms: float
    total_ms: float


class Query(BaseModel):
    """The query of a search: a text, or an image (which is not repeated here)."""

    kind: Kind
    text: str | None = None


class SearchResponse(BaseModel):
    """The hits of a search, best first, and facts about how they were found."""

    collection: str
    kind: Kind = Field(description="Kind of the collection's items.")
    query: Query
    hits: list[SearchHit]
    reranked: bool = Field(description="True if the cross-encoder reranked all k candidates.")
    reranked_count: int
    candidates: int
    reason: str | None = Field(description="The reason why `reranked` is false.")
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
    searchable: bool = Field(description="True if the collection was made with this service's bundle.")
    default: bool = Field(description="True for the collection of requests that name none.")


class Collections(BaseModel):
    """All collections of the Milvus database, by name."""

    collections: list[CollectionSummary]


class UploadedItem(BaseModel):
    """An uploaded image that is in the collection now."""

    file: str = Field(description="Name of the uploaded file.")
    id: str
    uri: str
    thumbnail: str


class UploadFailure(BaseModel):
    """An uploaded image that could not be used."""

    file: str
    reason: str


class UploadResponse(BaseModel):
    """The result of an upload."""

    collection: str
    added: int
    updated: int
    unchanged: int
    failed: int
    items: list[UploadedItem]
    failures: list[UploadFailure]
    seconds: float


class Readiness(BaseModel):
    """The readiness of the service."""

    status: Literal["ready", "not ready"]
    problems: dict[str, str] = Field(
        {}, description="The problem of each part that is not ready: `milvus`, `models` (the text encoder)."
    )
