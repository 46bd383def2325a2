"""Request bodies: their media type, the decoding of JSON, and short descriptions of validation errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pydantic_core
from pydantic import ValidationError
from starlette.requests import Request

from milvus_coop.serving.gateway.problems import RefusedError, told


def media_type(request: Request) -> str:
    """The media type of the body that the client declares, without parameters; '' if it declares none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def decode(body: bytes) -> Any:
    """Decode a JSON body.

    Raises:
        RefusedError: the body is not JSON.
    """
    try:
        return pydantic_core.from_json(body)
    except ValueError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"invalid request: the body is not JSON: {exc}") from exc


def describe(exc: ValidationError) -> str:
    """The first errors that pydantic found, without the values."""
    return "invalid request: " + told(exc.errors(include_url=False, include_input=False, include_context=False))
