"""Errors as HTTP answers: the status of each error, its message, and its form on the routes of this API.

That form is `application/problem+json` (RFC 9457), with what was given, what was expected and what to run. Routes with a foreign
protocol have forms of their own, and make one sentence of these three parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from milvus_coop import errors
from milvus_coop.serving.gateway.pool import RETRY_AFTER_S, BusyError, LateError

MEDIA_TYPE = "application/problem+json"
TOLD = 5
"""Maximum number of validation errors that an answer reports."""
SHOWN = 64
"""Maximum number of characters of a client's own names that an answer repeats."""

STATUS: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (errors.CollectionNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.ImageTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.BundleMismatchError, HTTPStatus.CONFLICT),
    (errors.CollectionExistsError, HTTPStatus.CONFLICT),
    (errors.ForeignCollectionError, HTTPStatus.CONFLICT),
    (errors.InvalidArgumentError, HTTPStatus.BAD_REQUEST),
    (errors.FilterError, HTTPStatus.BAD_REQUEST),
    (errors.ImageError, HTTPStatus.BAD_REQUEST),
    (errors.TokensError, HTTPStatus.BAD_REQUEST),
    (errors.StoreTimeoutError, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.BackendTimeoutError, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.DeadlineExceededError, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.StoreUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.BackendUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.StoreAuthError, HTTPStatus.BAD_GATEWAY),
    (errors.StoreError, HTTPStatus.BAD_GATEWAY),
    (errors.BackendError, HTTPStatus.BAD_GATEWAY),
    (errors.MilvusCoopError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (BusyError, HTTPStatus.TOO_MANY_REQUESTS),
    (LateError, HTTPStatus.GATEWAY_TIMEOUT),
)
"""The status of each error. The first class that matches counts."""


class Problem(BaseModel):
    """The answer to every failed request of this API."""

    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What was given, or what happened.", examples=["there is no collection 'imgaes'"])
    expected: str = Field("", description="The value or state that would have been right.")
    run: str = Field("", description="A command or call that solves the problem.")
    request_id: str = Field("", description="The id in the header x-request-id and in the logs.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, text in (
        (400, "An argument, a filter or an image is not valid."),
        (401, "The API key is missing or wrong."),
        (403, "The request comes from a page of another site, or uploads are off."),
        (404, "There is no such collection or item."),
        (409, "The collection was made with another bundle."),
        (413, "The body or the image is too large."),
        (415, "The body has the wrong media type."),
        (422, "The request does not fit the schema."),
        (429, "Too many requests are waiting, or came with this key; come back after `Retry-After` seconds."),
        (502, "Milvus, a model server or an object store refused the request."),
        (503, "Milvus or the models cannot be reached."),
        (504, "Milvus, the models, an object store or the request took too long."),
        (507, "The service cannot keep uploads: its disk is full, for example."),
    )
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI document."""
    return {status: PROBLEMS[status] for status in (401, 422, 429, *statuses)}


class RefusedError(Exception):
    """A request that the service itself refuses, before or after a search.

    Args:
        status: the status of the answer.
        detail: one sentence without a full stop that says what was given.
        expected: the value or state that would have been right.
        run: a command or call that solves the problem.
        headers: more headers of the answer.
    """

    def __init__(
        self, status: HTTPStatus, detail: str, *, expected: str = "", run: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.expected = expected
        self.run = run
        self.headers = headers or {}

    def said(self, change: Callable[[str], str]) -> RefusedError:
        """A copy whose message is changed by that function."""
        words = (change(self.detail), change(self.expected), change(self.run))
        return RefusedError(self.status, words[0], expected=words[1], run=words[2], headers=self.headers)


ErrorForm = Callable[[RefusedError, str], Response]
"""A form of errors: a function of the error and the request's id that returns the answer."""


def is_expected(exc: Exception) -> bool:
    """True for an error that this service raises on purpose. Others are faults of this service."""
    return isinstance(exc, (RefusedError, HTTPException, RequestValidationError, *(kind for kind, _ in STATUS)))


def refusal(exc: Exception) -> RefusedError:
    """Any error as one with a status and a message for the client. The details of an unknown error are not shown."""
    if isinstance(exc, RefusedError):
        return exc
    if isinstance(exc, HTTPException):
        status = HTTPStatus(exc.status_code)
        return RefusedError(status, str(exc.detail) or status.phrase, headers=dict(exc.headers or {}))
    if isinstance(exc, RequestValidationError):
        return RefusedError(
            HTTPStatus.UNPROCESSABLE_ENTITY, told(exc.errors()) or "the request is not valid", expected="see /openapi.json"
        )
    status = next((status for kind, status in STATUS if isinstance(exc, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(exc, BusyError):
        return RefusedError(status, "too many requests are waiting", expected="fewer at a time, or one a little later")
    if isinstance(exc, LateError):
        return RefusedError(
            status, "the request took longer than the service allows", expected="a smaller one, or one a little later"
        )
    if isinstance(exc, errors.MilvusCoopError):
        return RefusedError(status, exc.given, expected=exc.expected, run=exc.run)
    return RefusedError(status, "the service failed; its log has the reason under the request's id")


def retry_headers(status: int) -> dict[str, str]:
    """The header `Retry-After`, for statuses after which a client should try again."""
    return {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}


def problem(refused: RefusedError, request_id: str) -> Response:
    """The form of errors of this API's own routes."""
    status = refused.status
    body = Problem(
        title=status.phrase,
        status=status,
        detail=refused.detail,
        expected=refused.expected,
        run=refused.run,
        request_id=request_id,
    )
    return JSONResponse(body.model_dump(), status, {**retry_headers(status), **refused.headers}, MEDIA_TYPE)


def sentence(refused: RefusedError) -> str:
    """The three parts of an error message in one sentence."""
    expected = f"expected: {refused.expected}" if refused.expected else ""
    run = f"try: {refused.run}" if refused.run else ""
    return "; ".join(filter(None, (refused.detail, expected, run)))


def told(reasons: Sequence[Any]) -> str:
    """Places and messages of pydantic's first errors, without values. Long names that the client chose are cut."""
    said = []
    for reason in reasons[:TOLD]:
        place = ".".join(str(part)[:SHOWN] for part in reason["loc"] if part != "body")
        said.append(f"{place or 'body'}: {reason['msg']}")
    return "; ".join(said)


def install(app: FastAPI) -> None:
    """Let every error reach `FrontDoor`, and describe `Problem` in the application's OpenAPI document."""

    async def pass_on(request: Request, exc: Exception) -> Response:
        raise exc

    describe = app.openapi

    def document() -> dict[str, Any]:
        made = describe()
        made["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        return made

    app.openapi = document  # type: ignore[method-assign]
    for kind in (RequestValidationError, HTTPException):  # FastAPI would answer these itself
        app.add_exception_handler(kind, pass_on)
