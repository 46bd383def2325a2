"""OpenAI's `POST /v1/embeddings`: it gives clients without this SDK the vectors of texts and images to search with.

See https://platform.openai.com/docs/api-reference/embeddings. As an extension, an input may be an image, as a
`data:image/...;base64,` URI. Its entry then also has `image_tokens`, the query string to rerank with that image.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from milvus_coop.bundle.spec import IMAGE_ENCODER, IMAGE_TOKENS, TEXT_ENCODER
from milvus_coop.errors import BackendTimeoutError, InvalidArgumentError, MilvusCoopError
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.preprocess.texts import check_text
from milvus_coop.models.tokens import pack
from milvus_coop.serving.gateway.bodies import decode, describe
from milvus_coop.serving.gateway.failures import refused_by, sentence
from milvus_coop.serving.gateway.problems import RefusedError, retry_headers
from milvus_coop.serving.gateway.rerank.protocol import Body, check_model
from milvus_coop.serving.gateway.service import Service
from milvus_coop.types import Array

PATH = "/v1/embeddings"
MAX_INPUTS = 2048
"""Maximum number of inputs, the same as OpenAI's."""
PICTURES_AT_ONCE = 8
"""Maximum number of decoded images in memory. It is small because some models need images at full size."""
DATA, BASE64 = "data:image/", ";base64,"
STATUSES = (400, 401, 404, 408, 413, 429, 500, 502, 503, 504)
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class EmbeddingsRequest(Body):
    """A request for embeddings. `user` is ignored."""

    input: str | list[str] = Field(description="Texts, or images as data:image/...;base64, URIs.")
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


class EmbeddingsError(BaseModel):
    """An error: `message`, `type`, `param`, `code`."""

    error: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Embedded:
    """One embedded input."""

    embedding: Array
    """float32 of shape (dim,), unit length."""
    tokens: int
    """Number of tokens that the model read: text tokens of a text, image tokens of an image."""
    image_tokens: str | None = None


def embeddings_router(service: Service) -> APIRouter:
    """The route `/v1/embeddings`."""
    router = APIRouter(tags=["embeddings"])

    async def embeddings(request: Request) -> JSONResponse:
        deadline_s = time.perf_counter() + service.options.timeout_s
        try:
            asked = _parse(await request.body(), service)
            inputs = [asked.input] if isinstance(asked.input, str) else asked.input
            found = await service.run(lambda: embed(service.models.encoder, inputs, deadline_s))
            return JSONResponse(_answer(found, asked, service.models.encoder.spec.model_name))
        except Exception as exc:  # every error of this path has OpenAI's form
            return _told(refused_by(request, exc))

    body = {"required": True, "content": {"application/json": {"schema": EmbeddingsRequest.model_json_schema()}}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": EmbeddingsError, "description": HTTPStatus(status).phrase} for status in STATUSES
    }
    responses[200] = {"model": EmbeddingsAnswer, "description": "The embeddings, in the order of the inputs."}
    router.add_api_route(
        PATH,
        embeddings,
        methods=["POST"],
        summary="Embed texts and images",
        responses=responses,
        openapi_extra={"requestBody": body},
        response_class=JSONResponse,
    )
    return router


def embeddings_error(path: str, refused: RefusedError, request_id: str) -> JSONResponse | None:
    """The answer to a request that was refused before the route was reached; None for other paths."""
    return _told(refused) if path == PATH else None


def _told(refused: RefusedError) -> JSONResponse:
    """An error in the form of https://platform.openai.com/docs/guides/error-codes."""
    status = refused.status
    kind = TYPES.get(status, "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error")
    body = {"error": {"message": sentence(refused), "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers={**retry_headers(status), **refused.headers})


def embed(encoder: Encoder, inputs: Sequence[str], deadline_s: float) -> list[Embedded]:
    """Embed texts and images, in their order.

    Args:
        encoder: the encoder of the bundle in use.
        inputs: texts, and images as data URIs.
        deadline_s: value of `time.perf_counter()` at which the work must be finished.

    Raises:
        InvalidArgumentError, ImageError: an input cannot be read; the message says which.
        BackendTimeoutError: the deadline passed.
        BackendError: the backend failed.
    """
    found: dict[int, Embedded] = {}
    pictures = [i for i, text in enumerate(inputs) if text.startswith(DATA)]
    texts = [i for i, text in enumerate(inputs) if not text.startswith(DATA)]
    for positions, graph in ((texts, TEXT_ENCODER), (pictures, IMAGE_ENCODER)):
        step = encoder.spec.graph(graph).max_batch if graph == TEXT_ENCODER else PICTURES_AT_ONCE
        for start in range(0, len(positions), step):
            chunk = positions[start : start + step]
            left_s = deadline_s - time.perf_counter()
            if left_s <= 0:
                raise BackendTimeoutError(
                    f"the time limit came after {len(found)} of {len(inputs)} inputs", expected="fewer inputs"
                )
            some = [inputs[i] for i in chunk]
            embedded = _texts(encoder, some, chunk, left_s) if graph == TEXT_ENCODER else _pictures(encoder, some, chunk, left_s)
            found.update(zip(chunk, embedded, strict=True))
    return [found[i] for i in range(len(inputs))]


def _texts(encoder: Encoder, texts: Sequence[str], places: Sequence[int], timeout_s: float) -> list[Embedded]:
    for text, place in zip(texts, places, strict=True):
        try:
            check_text(text)
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"input[{place}]: {exc.given}", expected=exc.expected) from exc
    counts = encoder.tokenise(texts)["attention_mask"].sum(axis=1)
    embeddings = encoder.encode_texts(texts, timeout_s=timeout_s).embeddings
    return [Embedded(embedding, int(n)) for embedding, n in zip(embeddings, counts, strict=True)]


def _pictures(encoder: Encoder, uris: Sequence[str], places: Sequence[int], timeout_s: float) -> list[Embedded]:
    images = []
    for uri, place in zip(uris, places, strict=True):
        try:
            images.append(encoder.decode(_bytes(uri)))
        except MilvusCoopError as exc:
            raise type(exc)(f"input[{place}]: {exc.given}", expected=exc.expected) from exc
    encoded = encoder.encode_images(images, timeout_s=timeout_s)
    kept = pack(encoded.tokens, encoded.scales) if IMAGE_TOKENS in encoded.image_side else [None] * len(images)
    count = encoder.spec.tokens.count
    return [Embedded(embedding, count, tokens) for embedding, tokens in zip(encoded.embeddings, kept, strict=True)]


def _bytes(uri: str) -> bytes:
    _, separator, data = uri.partition(BASE64)
    try:
        if separator:
            return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgumentError("the image is not base64", expected="data:image/jpeg;base64,...") from exc
    raise InvalidArgumentError("the image is a URI without base64", expected="data:image/jpeg;base64,...")


def _parse(body: bytes, service: Service) -> EmbeddingsRequest:
    value = decode(body)
    given = value.get("input") if isinstance(value, dict) else None
    if isinstance(given, list) and len(given) > MAX_INPUTS:  # checked first, because pydantic would make an error for each entry
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"input has {len(given):,} entries", expected=f"at most {MAX_INPUTS:,}")
    try:
        asked = EmbeddingsRequest.model_validate(value)
    except ValidationError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, describe(exc)) from exc
    spec = service.models.encoder.spec
    check_model(asked.model or "", spec)
    if asked.dimensions not in (None, spec.dim):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"dimensions is {asked.dimensions}", expected=f"{spec.dim}, as the bundle has")
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input
    pictures = sum(text.startswith(DATA) for text in inputs)
    if not inputs or pictures > service.options.max_files:
        raise RefusedError(
            HTTPStatus.BAD_REQUEST,
            f"input has {len(inputs) - pictures} texts and {pictures} images",
            expected=f"1 to {MAX_INPUTS} inputs, of which at most {service.options.max_files} are images",
        )
    return asked


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
