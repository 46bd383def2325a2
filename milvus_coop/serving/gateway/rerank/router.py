"""The routes of the rerank protocols and their errors. Each route exists at the root and below each collection."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial, reduce
from http import HTTPStatus
from operator import or_
from typing import Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from milvus_coop.deadline import Deadline
from milvus_coop.search import CoopSearch
from milvus_coop.serving.gateway.bodies import decode, read
from milvus_coop.serving.gateway.data_uris import is_data_uri
from milvus_coop.serving.gateway.facts import facts_of
from milvus_coop.serving.gateway.logs import log
from milvus_coop.serving.gateway.problems import ErrorForm, RefusedError, retry_headers, sentence
from milvus_coop.serving.gateway.rerank.cohere import Cohere
from milvus_coop.serving.gateway.rerank.jina import Jina
from milvus_coop.serving.gateway.rerank.protocol import Ask, Context, Protocol, check_model, inlined
from milvus_coop.serving.gateway.rerank.scoring import DocumentScores, score_documents
from milvus_coop.serving.gateway.rerank.tei import Tei
from milvus_coop.serving.gateway.service import Service

UNREADABLE_HEADER = "x-milvus-coop-unreadable"
"""Header with the number of documents of a request that could not be read."""
UNREADABLE_SCHEMA = {
    "description": "Number of documents that could not be read; they come last.",
    "schema": {"type": "integer"},
}
COLLECTION = "/collections/{collection}"

_COHERE, _TEI, _JINA, _VLLM = Cohere(), Tei(), Jina(returns=True), Jina(returns=False)
PROTOCOLS: Mapping[str, tuple[Protocol, ...]] = {"/v2/rerank": (_COHERE,), "/v1/rerank": (_JINA,), "/rerank": (_TEI, _VLLM)}
"""Protocols by path. Milvus servers call `/rerank` for both TEI and vLLM: a request with `texts` is TEI, with `documents` vLLM."""
_PATH = re.compile(r"(?:/collections/[^/]+)?(/(?:v[12]/)?rerank)/?")

Choose = Callable[[Any], Protocol]


def rerank_router(service: Service) -> APIRouter:
    """The routes `/v2/rerank`, `/v1/rerank` and `/rerank`, and the same routes below `/collections/{collection}`.

    `?model=` and `?collection=` may replace the model in the body and the collection in the path. Milvus servers replace the path
    of an endpoint and send no model, but they keep the query string.
    """
    router = APIRouter(tags=["rerank"])
    for path, protocols in PROTOCOLS.items():
        _add(router, service, path, protocols)
    return router


def rerank_form(path: str) -> ErrorForm | None:
    """The form of errors of a request that has not reached a rerank route; None for other paths."""
    match = _PATH.fullmatch(path)
    return None if match is None else partial(_told, PROTOCOLS[match[1]][0])


def _add(router: APIRouter, service: Service, path: str, protocols: tuple[Protocol, ...]) -> None:
    def choose(value: Any) -> Protocol:
        return protocols[-1] if isinstance(value, dict) and "documents" in value else protocols[0]

    async def rerank(
        request: Request,
        model: str = Query("", description="Name of the model; checked like the one in the body."),
        collection: str = Query("", description="Collection of the documents; needed if its rows name token files."),
    ) -> JSONResponse:
        return await _respond(service, request, choose, model, collection)

    async def rerank_collection(
        request: Request,
        collection: str = Path(),
        model: str = Query("", description="Name of the model; checked like the one in the body."),
    ) -> JSONResponse:
        return await _respond(service, request, choose, model, collection)

    names = " or ".join(protocol.name for protocol in protocols)
    options: dict[str, Any] = {"methods": ["POST"], "response_class": JSONResponse, **_described(protocols)}
    router.add_api_route(path, rerank, summary=f"Rerank ({names})", **options)
    router.add_api_route(COLLECTION + path, rerank_collection, summary=f"Rerank rows of a collection ({names})", **options)


def _described(protocols: tuple[Protocol, ...]) -> dict[str, Any]:
    """The description of requests, answers and errors for the OpenAPI document."""
    schemas = [inlined(protocol.body) for protocol in protocols]
    body = {"required": True, "content": {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}}
    answered = reduce(or_, (protocol.answered for protocol in protocols))
    failed = reduce(or_, (protocol.failed for protocol in protocols))
    statuses = sorted({status for protocol in protocols for status in protocol.statuses})
    errors = {status: {"model": failed, "description": HTTPStatus(status).phrase} for status in statuses}
    answer = {"model": answered, "description": "Results, best first.", "headers": {UNREADABLE_HEADER: UNREADABLE_SCHEMA}}
    return {"responses": {200: answer, **errors}, "openapi_extra": {"requestBody": body}}


async def _respond(service: Service, request: Request, choose: Choose, model: str, collection: str) -> JSONResponse:
    deadline = Deadline(service.options.timeout_s)
    value = await read(request, decode)
    protocol = choose(value)
    facts_of(request).form = partial(_told, protocol)
    ask = _check(service, protocol.parse(value), model)
    scores = await service.run(lambda: _score(service, ask, collection, facts_of(request).filter, deadline))
    return _answer(service, facts_of(request).id, protocol, ask, scores)


def _check(service: Service, ask: Ask, model: str) -> Ask:
    for named in (ask.model, model):
        check_model(named, service.models.encoder.spec)
    if is_data_uri(ask.query):
        raise RefusedError(
            HTTPStatus.BAD_REQUEST,
            "the query is a data URI",
            expected="a text, or the image tokens of an image",
            run="POST /v1/embeddings with the data URI as `input`; its answer has `image_tokens`",
        )
    if not ask.documents:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "invalid request: list of documents must not be empty")
    maximum = service.options.max_documents
    if len(ask.documents) > maximum:
        raise RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the request has {len(ask.documents):,} documents",
            expected=f"at most {maximum:,}",
            run="a smaller limit or max_client_batch_size, or a larger MILVUS_COOP_SERVE_MAX_DOCUMENTS",
        )
    return ask


def _score(service: Service, ask: Ask, collection: str, within: str, deadline: Deadline) -> DocumentScores:
    def score_rows(opened: CoopSearch) -> DocumentScores:
        return score_documents(service.models, ask.query, ask.documents, opened.collection, deadline)

    if collection:
        return service.search(collection, score_rows, within=within, deadline=deadline)
    return score_documents(service.models, ask.query, ask.documents, None, deadline)


def _answer(service: Service, request_id: str, protocol: Protocol, ask: Ask, scores: DocumentScores) -> JSONResponse:
    service.metrics.documents.labels(protocol.name).inc(len(ask.documents))
    service.metrics.unreadable.labels(protocol.name).inc(scores.unreadable)
    warnings = []
    if scores.unreadable:
        warnings.append(f"{scores.unreadable} of {len(ask.documents)} documents could not be read, and have the lowest score")
        log("unreadable", level=logging.WARNING, request_id=request_id, documents=len(ask.documents), unreadable=scores.unreadable)
    context = Context(request_id, service.models.encoder.spec.model_name, warnings)
    return JSONResponse(protocol.answer(ask, scores, context), headers={UNREADABLE_HEADER: str(scores.unreadable)})


def _told(protocol: Protocol, refused: RefusedError, request_id: str) -> JSONResponse:
    status, body = protocol.failure(refused.status, sentence(refused), request_id)
    return JSONResponse(body, status, headers={**retry_headers(refused.status), **refused.headers})
