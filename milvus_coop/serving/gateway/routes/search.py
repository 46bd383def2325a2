"""`POST /v1/search`."""

from __future__ import annotations

import sys
from dataclasses import fields
from http import HTTPStatus
from typing import Annotated, Any

import pydantic_core
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from milvus_coop.deadline import Deadline
from milvus_coop.search import CoopSearch
from milvus_coop.search.state import ENCODED
from milvus_coop.serving.gateway.bodies import media_type, read
from milvus_coop.serving.gateway.data_uris import image_in, is_data_uri
from milvus_coop.serving.gateway.facts import facts_of
from milvus_coop.serving.gateway.problems import RefusedError, problems
from milvus_coop.serving.gateway.schemas import Query, SearchHit, SearchRequest, SearchResponse, StageTimings
from milvus_coop.serving.gateway.service import Service
from milvus_coop.serving.gateway.thumbnails import thumbnail_of
from milvus_coop.types import Hit, Kind, SearchResult, Timings

JSON, FORM = "application/json", "multipart/form-data"
FORM_FIELDS = 32


def _body() -> dict[str, Any]:
    """The two forms of the request, for the OpenAPI document."""
    form = SearchRequest.model_json_schema()["properties"]
    fields = {name: {k: v for k, v in field.items() if k in ("type", "description")} for name, field in form.items()}
    fields["image"] = {"type": "string", "contentMediaType": "application/octet-stream", "description": "An image file."}
    fields["output_fields"] = {"type": "string", "description": "Names separated by commas."}
    return {
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": SearchRequest.model_json_schema()},
                FORM: {"schema": {"type": "object", "properties": fields}},
            },
        }
    }


async def read_request(request: Request) -> SearchRequest:
    """A search request from JSON or from a form. A text that is a data URI is an image.

    Raises:
        InvalidArgumentError: a data URI has another media type, or cannot be decoded.
        RefusedError: the body has another media type.
        RequestValidationError: the body does not fit the schema.
    """
    kind = media_type(request)
    try:
        if kind == JSON:
            return await read(request, lambda body: _with_image(SearchRequest.model_validate(_known(_decoded(body)))))
        if kind == FORM:
            return _with_image(await _from_form(request))
    except ValidationError as exc:
        # The bytes of an image must not appear in the answer or in a log.
        raise RequestValidationError(exc.errors(include_input=False, include_context=False, include_url=False)) from exc
    raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body is of type '{kind}'", expected=f"{JSON} or {FORM}")


def _with_image(asked: SearchRequest) -> SearchRequest:
    if asked.text is not None and asked.image is None and is_data_uri(asked.text):
        asked.image = image_in(asked.text)
        asked.text = None
    return asked


def _decoded(body: bytes) -> Any:
    try:
        return pydantic_core.from_json(body)
    except ValueError as exc:
        raise RequestValidationError([{"loc": (), "msg": f"Invalid JSON: {exc}"}]) from exc


def _known(value: Any) -> Any:
    """The value, if it has only names that a request has. This check comes first because pydantic would make an error per name.

    Raises:
        RequestValidationError: the value has an unknown name.
    """
    odd = next((name for name in value if name not in SearchRequest.model_fields), None) if isinstance(value, dict) else None
    if odd is not None:
        raise RequestValidationError([{"loc": (odd,), "msg": "Extra inputs are not permitted"}])
    return value


async def _from_form(request: Request) -> SearchRequest:
    # No part can be larger than the body, whose limit the service has checked. The schema then names the field that is too long.
    async with request.form(max_files=1, max_fields=FORM_FIELDS, max_part_size=sys.maxsize) as form:
        given: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str) and value}
        if "output_fields" in given:
            given["output_fields"] = [part for name in given["output_fields"].split(",") if (part := name.strip())]
        # If the user chose no file, a browser sends a file without name and content.
        uploads = {name: value for name, value in form.items() if isinstance(value, UploadFile) and (value.filename or value.size)}
        if odd := set(uploads) - {"image"}:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"the form has a file '{min(odd)[:64]}'", expected="one named 'image'")
        made = SearchRequest.model_validate(_known(given))
        if "image" in uploads:
            made.image = await uploads["image"].read()
        return made


def router(service: Service) -> APIRouter:
    """The route for a service."""
    routes = APIRouter(tags=["search"])
    options = service.options

    @routes.post(
        "/v1/search",
        response_model=SearchResponse,
        responses=problems(400, 404, 409, 413, 415, 502, 503, 504),
        openapi_extra=_body(),
        summary="Search a collection with a text or an image",
    )
    async def search(request: Request, asked: Annotated[SearchRequest, Depends(read_request)]) -> SearchResponse:
        """Search as `CoopSearch.query` does: Milvus retrieves candidates, and the cross-encoder reranks them.

        An image is sent in JSON (base64) or as the file `image` of a form. If the cross-encoder cannot answer, the hits are in the
        bi-encoder's order, and `reason` says why.
        """
        for name, value in (("offset + limit" if asked.offset else "limit", asked.offset + asked.limit), ("k", asked.k or 1)):
            if value > options.max_k:
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"{name} is {value:,}", expected=f"at most {options.max_k:,}")

        deadline = Deadline.after_ms(asked.deadline_ms)

        query: Kind = "text" if asked.image is None else "image"

        def run(searcher: CoopSearch) -> tuple[SearchResult, Kind, bool]:
            chosen = asked.options
            if not deadline.is_never:  # a part of the time has gone by in the queue
                deadline.check(ENCODED)
                chosen = chosen.change(deadline_ms=1000 * deadline.remaining())
            return searcher.query(asked.text, image=asked.image, options=chosen), searcher.kind, searcher.reranks(query)

        name = asked.collection or service.settings.collection
        within = facts_of(request).filter
        result, kind, reranks = await service.run(lambda: service.search(name, run, within=within, deadline=deadline), deadline)
        service.metrics.searched(result, rerank=asked.rerank and reranks)
        service.tracing.searched(result.timings)
        facts_of(request).logged.update(
            collection=name,
            candidates=result.candidates,
            reranked_count=result.reranked_count,
            reason=result.reason if asked.rerank else None,
        )
        return response_of(result, name, kind, asked, reason=result.reason and service.hide(result.reason))

    return routes


def response_of(result: SearchResult, collection: str, kind: Kind, asked: SearchRequest, *, reason: str | None) -> SearchResponse:
    """A result in the form of the API."""
    return SearchResponse(
        collection=collection,
        kind=kind,
        query=Query(kind="text" if asked.image is None else "image", text=asked.text),
        hits=[SearchHit(**_values(hit), thumbnail=thumbnail_of(collection, hit.id) if kind == "image" else None) for hit in result],
        reranked=result.reranked,
        reranked_count=result.reranked_count,
        candidates=result.candidates,
        reason=reason,
        timings=StageTimings(**_values(result.timings)),
    )


def _values(record: Hit | Timings) -> dict[str, Any]:
    """The values of a record by name. `dataclasses.asdict` would copy all metadata, which would take half of the gateway's time."""
    return {field.name: getattr(record, field.name) for field in fields(record)}
