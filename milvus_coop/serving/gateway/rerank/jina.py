"""Jina's and vLLM's `POST /v1/rerank`, and vLLM's `POST /rerank`, which Milvus servers speak.

https://docs.vllm.ai/en/stable/serving/openai_compatible_server/#re-rank-api, https://api.jina.ai/redoc
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field

from milvus_coop.serving.gateway.rerank.protocol import Ask, Body, Context, Protocol
from milvus_coop.serving.gateway.rerank.scoring import DocumentScores

TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 429: "RateLimitError"}


class JinaDocument(Body):
    """A document as an object."""

    text: str | None


class JinaRequest(Body):
    """`truncate_prompt_tokens`, `truncation` and the like are ignored: texts are cut at the bundle's length."""

    query: str | JinaDocument
    documents: Annotated[list[str | JinaDocument | None], FailFast()] = Field(
        description="Values of the field that holds image tokens or texts."
    )
    model: str | None = Field(None, description="The bundle's name, or name@fingerprint; optional.")
    top_n: int | None = Field(None, ge=0, description="Number of results; 0 or null means all.")
    return_documents: bool | None = Field(
        None, description="Repeat the documents (Jina). Default: true at /v1/rerank, as in vLLM; false at /rerank."
    )


class JinaText(BaseModel):
    """A document in an answer."""

    text: str | None


class JinaResult(BaseModel):
    """The score of one document."""

    index: int
    relevance_score: float
    document: JinaText | None = None


class JinaAnswer(BaseModel):
    """An answer. `usage` has `prompt_tokens` and `total_tokens`: the text and image tokens of all pairs."""

    id: str
    model: str
    usage: dict[str, int]
    results: list[JinaResult]


class JinaError(BaseModel):
    """An error."""

    error: dict[str, Any]
    detail: str


class Jina(Protocol):
    """The protocol of Jina and vLLM: results by descending score.

    Args:
        returns: repeat the documents in answers by default. Milvus does not read them, and they would double the traffic.
    """

    name = "vllm"
    body = JinaRequest
    answered = JinaAnswer
    failed = JinaError
    statuses = (400, 401, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)

    def __init__(self, *, returns: bool) -> None:
        self._returns = returns

    def ask(self, body: JinaRequest) -> Ask:
        """See `Protocol.ask`."""
        query, *documents = _texts([body.query, *body.documents])
        returns = self._returns if body.return_documents is None else body.return_documents
        return Ask(query or "", documents, body.model or "", body.top_n or None, returns)

    def answer(self, ask: Ask, scores: DocumentScores, context: Context) -> dict[str, Any]:
        """See `Protocol.answer`."""
        results: list[dict[str, Any]] = [
            {"index": i, "relevance_score": float(scores.probability[i])} for i in scores.order(ask.top_n)
        ]
        if ask.returns:
            for result in results:
                result["document"] = {"text": ask.documents[result["index"]]}
        usage = {"prompt_tokens": scores.total_tokens, "total_tokens": scores.total_tokens}
        return {"id": f"rerank-{context.id}", "model": context.model, "usage": usage, "results": results}

    def failure(self, status: int, message: str, request_id: str) -> tuple[int, dict[str, Any]]:
        """See `Protocol.failure`. `error` is the form of vLLM. `detail` is the form of Jina, which LangChain's client reads."""
        kind = TYPES.get(status, HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "") + "Error")
        kind = "InternalServerError" if status == HTTPStatus.INTERNAL_SERVER_ERROR else kind
        return status, {"error": {"message": message, "type": kind, "param": None, "code": status}, "detail": message}


def _texts(documents: Sequence[str | JinaDocument | None]) -> list[str | None]:
    return [document.text if isinstance(document, JinaDocument) else document for document in documents]
