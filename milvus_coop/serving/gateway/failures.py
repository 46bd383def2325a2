"""Errors of routes with a foreign protocol. Such routes cannot answer with `application/problem+json`."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from milvus_coop.errors import MilvusCoopError
from milvus_coop.serving.gateway.logs import log
from milvus_coop.serving.gateway.pool import BusyError, LateError
from milvus_coop.serving.gateway.problems import RefusedError, refusal, request_id_of


def refused_by(request: Request, exc: Exception) -> RefusedError:
    """Any error as one with a status and a message for the client. The error is recorded, and unexpected errors are logged."""
    request.state.error = type(exc).__name__
    if isinstance(exc, HTTPException):  # the body was too large, or did not arrive
        return RefusedError(HTTPStatus(exc.status_code), str(exc.detail), headers=dict(exc.headers or {}))
    if isinstance(exc, ClientDisconnect):
        return RefusedError(HTTPStatus.BAD_REQUEST, "the client left before its request was complete")
    if not isinstance(exc, (MilvusCoopError, RefusedError, BusyError, LateError)):
        log("failed", level=logging.ERROR, exc_info=True, request_id=request_id_of(request), path=request.url.path)
    return refusal(exc)


def sentence(refused: RefusedError) -> str:
    """The three parts of an error message in one sentence."""
    expected = f"expected: {refused.expected}" if refused.expected else ""
    run = f"try: {refused.run}" if refused.run else ""
    return "; ".join(filter(None, (refused.detail, expected, run)))
