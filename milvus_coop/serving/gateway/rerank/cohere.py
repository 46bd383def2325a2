"""Cohere's `POST /v2/rerank`, which Milvus Lite speaks.

https://docs.cohere.com/reference/rerank, https://docs.cohere.com/errors-reference
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field

from milvus_coop.serving.gateway.rerank.protocol import Ask, Body, Context, Protocol
from milvus_coop.serving.gateway.rerank.scoring import DocumentScores

DOCUMENTS_PER_UNIT = 100
"""Number of documents that Cohere counts as one search unit."""
STATUS = {409: 422, 502: 503}
"""Statuses that Cohere's API does not have, with the nearest ones that it has."""


class CohereRequest(Body):
    """`max_tokens_per_doc`, `priority` and `relevant_spans` are ignored: texts are cut at the bundle's length."""

    query: str
    documents: Annotated[list[str | None], FailFast()] = Field(description="Values of the field that holds image tokens or texts.")
    model: str | None = Field(None, description="The bundle's name, or name@fingerprint; optional.")
    top_n: int | None = Field(None, ge=1)


class CohereResult(BaseModel):
    """The score of one document."""

    index: int
    relevance_score: float


class CohereAnswer(BaseModel):
    """`meta` has `api_version`, `billed_units`, and `warnings` if documents could not be read."""

    id: str
    results: list[CohereResult]
    meta: dict[str, Any]


class CohereError(BaseModel):
    """An error."""

    id: str
    message: str


class Cohere(Protocol):
    """Cohere's protocol: results by descending score, without the documents.

    The first Milvus servers 2.6 send vLLM's protocol to this path; their requests fit too.
    """

    name = "cohere"
    body = CohereRequest
    answered = CohereAnswer
    failed = CohereError
    statuses = (400, 401, 404, 408, 413, 422, 429, 500, 503, 504)

    def ask(self, body: CohereRequest) -> Ask:
        """See `Protocol.ask`."""
        return Ask(body.query, body.documents, body.model or "", body.top_n)

    def answer(self, ask: Ask, scores: DocumentScores, context: Context) -> dict[str, Any]:
        """See `Protocol.answer`."""
        meta: dict[str, Any] = {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": -(-len(ask.documents) // DOCUMENTS_PER_UNIT)},
        }
        if context.warnings:
            meta["warnings"] = list(context.warnings)
        results = [{"index": i, "relevance_score": float(scores.probability[i])} for i in scores.order(ask.top_n)]
        return {"id": context.id, "results": results, "meta": meta}

    def failure(self, status: int, message: str, request_id: str) -> tuple[int, dict[str, Any]]:
        """See `Protocol.failure`."""
        return STATUS.get(status, status), {"id": request_id, "message": message}
