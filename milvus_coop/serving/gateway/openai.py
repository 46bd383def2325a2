"""OpenAI's `POST /v1/embeddings` and `GET /v1/models`, for clients without this SDK.

See https://platform.openai.com/docs/api-reference/embeddings and .../models. As an extension, an input may be an image, as a
data URI. Its entry then also has `image_tokens`, the query string to rerank with that image.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.deadline import Deadline
from milvus_coop.serving.gateway.bodies import decode, describe, read
from milvus_coop.serving.gateway.data_uris import is_data_uri
from milvus_coop.serving.gateway.embeddings import Embedded, embed
from milvus_coop.serving.gateway.problems import ErrorForm, RefusedError, retry_headers, sentence
from milvus_coop.serving.gateway.rerank.protocol import Body, check_model
from milvus_coop.serving.gateway.service import Service

EMBEDDINGS, MODELS = "/v1/embeddings", "/v1/models"
MAX_INPUTS = 2048
"""Maximum number of inputs, the same as OpenAI's."""
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_PATH = re.compile(rf"{EMBEDDINGS}|{MODELS}(/.*)?", re.DOTALL)


class EmbeddingsRequest(Body):
    """A request for embeddings. `user` is ignored."""

    input: str | list[str] = Field(description="Texts, or images as data URIs.")
    model: str | None = Field(None, description="The bundle's name, or name@fingerprint; optional.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="Length of an embedding; only the bundle's own length is accepted.")


class EmbeddingsEntry(BaseModel):
    """The embedding of one input."""

    object: str
    index: int
    embedding: list[float] | str
    image_tokens: str | None = None


class EmbeddingsAnswer(BaseModel):
    """The embeddings of all inputs, in the order of the inputs."""

    object: str
    data: list[EmbeddingsEntry]
    model: str
    usage: dict[str, int]


class OpenAIError(BaseModel):
    """An error: `message`, `type`, `param`, `code`."""

    error: dict[str, Any]


class Model(BaseModel):
    """A model that rerank and embeddings accept as `model`."""

    id: str
    object: str = "model"
    created: int = Field(description="Unix time at which this service started.")
    owned_by: str = "milvus-coop"


class ModelList(BaseModel):
    """The models of this service: the bundle in use."""

    object: str = "list"
    data: list[Model]


def openai_router(service: Service) -> APIRouter:
    """The routes `/v1/embeddings`, `/v1/models` and `/v1/models/{model}`."""
    router = APIRouter()
    spec, created = service.models.encoder.spec, int(time.time())
    schema = EmbeddingsRequest.model_json_schema()

    async def embeddings(request: Request) -> JSONResponse:
        deadline = Deadline(service.options.timeout_s)
        asked = await read(request, partial(_parse, service=service))
        inputs = [asked.input] if isinstance(asked.input, str) else asked.input
        found = await service.run(lambda: embed(service.models.encoder, inputs, deadline))
        return JSONResponse(_answer(found, asked, spec.model_name))

    async def models() -> ModelList:
        return ModelList(data=[Model(id=spec.model_name, created=created)])

    async def model(model: str) -> Model:
        check_model(model, spec)
        return Model(id=model, created=created)

    router.add_api_route(
        EMBEDDINGS,
        embeddings,
        methods=["POST"],
        tags=["embeddings"],
        summary="Embed texts and images",
        responses=_responses(EmbeddingsAnswer, 400, 401, 404, 408, 413, 429, 500, 502, 503, 504),
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
        response_class=JSONResponse,
    )
    router.add_api_route(MODELS, models, tags=["models"], summary="List the models", responses=_responses(ModelList, 401))
    router.add_api_route(
        MODELS + "/{model}", model, tags=["models"], summary="Describe a model", responses=_responses(Model, 401, 404, 422)
    )
    return router


def _responses(answer: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route, for the OpenAPI document."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": OpenAIError, "description": HTTPStatus(status).phrase} for status in statuses
    }
    return {200: {"model": answer, "description": answer.__doc__}, **errors}


def openai_form(path: str) -> ErrorForm | None:
    """The form of errors of these routes; None for other paths."""
    return _told if _PATH.fullmatch(path) else None


def _told(refused: RefusedError, request_id: str) -> JSONResponse:
    """An error in the form of https://platform.openai.com/docs/guides/error-codes."""
    status = refused.status
    kind = TYPES.get(status, "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error")
    body = {"error": {"message": sentence(refused), "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers={**retry_headers(status), **refused.headers})


def _parse(body: bytes, service: Service) -> EmbeddingsRequest:
    value = decode(body)
    _check_inputs(value.get("input") if isinstance(value, dict) else None)
    try:
        asked = EmbeddingsRequest.model_validate(value)
    except ValidationError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, describe(exc)) from exc
    _check_options(asked, service.models.encoder.spec)
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input
    images = sum(map(is_data_uri, inputs))
    if not inputs or images > service.options.max_files:
        raise RefusedError(
            HTTPStatus.BAD_REQUEST,
            f"input has {len(inputs) - images} texts and {images} images",
            expected=f"1 to {MAX_INPUTS} inputs, of which at most {service.options.max_files} are images",
        )
    return asked


def _check_inputs(given: Any) -> None:
    """Refuse token ids, and lists that are so long that pydantic would make an error for each entry."""
    if not isinstance(given, list):
        return
    if len(given) > MAX_INPUTS:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"input has {len(given):,} entries", expected=f"at most {MAX_INPUTS:,}")
    first = given[0] if given else None
    if isinstance(first[0] if isinstance(first, list) and first else first, int):
        raise RefusedError(
            HTTPStatus.BAD_REQUEST,
            "input holds token ids of another model's tokenizer",
            expected="texts, or images as data URIs",
            run="OpenAIEmbeddings(..., check_embedding_ctx_length=False), if the client is LangChain",
        )


def _check_options(asked: EmbeddingsRequest, spec: BundleSpec) -> None:
    check_model(asked.model or "", spec)
    if asked.dimensions not in (None, spec.dim):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"dimensions is {asked.dimensions}", expected=f"{spec.dim}, as the bundle has")


def _answer(found: Sequence[Embedded], asked: EmbeddingsRequest, model: str) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for index, item in enumerate(found):
        values = item.embedding.astype("<f4")
        told = values.tolist() if asked.encoding_format == "float" else base64.b64encode(values.tobytes()).decode("ascii")
        data.append({"object": "embedding", "index": index, "embedding": told})
        if item.image_tokens is not None:
            data[-1]["image_tokens"] = item.image_tokens
    n = int(np.sum([item.tokens for item in found]))
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": n, "total_tokens": n}}
