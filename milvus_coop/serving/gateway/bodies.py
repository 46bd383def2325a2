"""Bodies that clients send: of what type they are, JSON decoded, and what is wrong with it in few words, however much is wrong."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pydantic_core
from pydantic import ValidationError
from starlette.requests import Request

from milvus_coop.serving.gateway.problems import RefusedError, told


def media_type(request: Request) -> str:
    """What the client says that the body is, without parameters; '' if it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def decode(body: bytes) -> Any:
    """What a body of JSON holds.

    Raises:
        RefusedError: it is not JSON.
    """
    try:
        return pydantic_core.from_json(body)
    except ValueError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"invalid request: the body is not JSON: {exc}") from exc


def describe(exc: ValidationError) -> str:
    """The first things that pydantic found, without the values."""
    return "invalid request: " + told(exc.errors(include_url=False, include_input=False, include_context=False))
