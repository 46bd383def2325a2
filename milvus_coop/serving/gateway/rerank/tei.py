"""Hugging Face Text Embeddings Inference, `POST /rerank`.

https://huggingface.github.io/text-embeddings-inference/ (docs/openapi.json of huggingface/text-embeddings-inference, 1.7)
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field

from milvus_coop.serving.gateway.problems import RefusedError
from milvus_coop.serving.gateway.rerank.protocol import Ask, Body, Context, Protocol
from milvus_coop.serving.gateway.rerank.scoring import DocumentScores

VALIDATION, TOKENIZER, BACKEND, OVERLOADED = "validation", "tokenizer", "backend", "overloaded"
FAILURES = {400: (422, TOKENIZER), 422: (422, TOKENIZER), 413: (413, VALIDATION), 429: (429, OVERLOADED)}
"""TEI's status and `error_type` for each HTTP status."""
FAILED_DEPENDENCY = 424
KEPT = (401, 403, 404, 405, 421)
"""Statuses that TEI does not define; they are kept."""


class TeiRequest(Body):
    """A request. Long texts are always cut at the right, whatever `truncate` says; token strings are never cut."""

    query: str
    texts: Annotated[list[str | None], FailFast()] = Field(description="Values of the field that holds image tokens or texts.")
    raw_scores: bool = Field(False, description="Return logits instead of probabilities.")
    return_text: bool = False
    truncate: bool | None = False
    truncation_direction: str = Field("Right", pattern="(?i)^(left|right)$")


class TeiRank(BaseModel):
    """The score of one document."""

    index: int
    score: float
    text: str | None = None


class TeiError(BaseModel):
    """An error."""

    error: str
    error_type: str


class Tei(Protocol):
    """The protocol of TEI: results by descending score, each with its index."""

    name = "tei"
    body = TeiRequest
    answered = list[TeiRank]
    failed = TeiError
    statuses = (401, 404, 413, 422, 424, 429)

    def ask(self, body: TeiRequest) -> Ask:
        """See `Protocol.ask`."""
        if body.truncate and body.truncation_direction.lower() == "left":
            raise RefusedError(
                HTTPStatus.BAD_REQUEST, "this service cuts texts at the right only", expected="truncation_direction Right"
            )
        return Ask(body.query, body.texts, returns=body.return_text, raw=body.raw_scores)

    def answer(self, ask: Ask, scores: DocumentScores, context: Context) -> list[dict[str, Any]]:
        """See `Protocol.answer`."""
        told = scores.logit if ask.raw else scores.probability
        ranks: list[dict[str, Any]] = [{"index": i, "score": float(told[i])} for i in scores.order(ask.top_n)]
        if ask.returns:
            for rank in ranks:
                rank["text"] = ask.documents[rank["index"]]
        return ranks

    def failure(self, status: int, message: str, request_id: str) -> tuple[int, dict[str, Any]]:
        """See `Protocol.failure`."""
        unknown = (status, VALIDATION) if status in KEPT else (FAILED_DEPENDENCY, BACKEND)
        status, kind = FAILURES.get(status, unknown)
        return status, {"error": message, "error_type": kind}
