"""Request bodies: how they arrive within limits, their media type, and the decoding of JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import pydantic_core
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive

from milvus_coop.serving.gateway.facts import Facts
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.pool import BusyError
from milvus_coop.serving.gateway.problems import RefusedError, told

T = TypeVar("T")

LARGE = 2**18
"""Minimum size of a body that a thread decodes, in bytes. Smaller bodies take the event loop less time than a thread costs."""


@dataclass(slots=True)
class Held:
    """Total size of the bodies of all unanswered requests, in bytes. Only the event loop accesses it."""

    limit: int
    n_bytes: int = 0


class Arriving:
    """The body of a request while it arrives. It is refused if it is too large or takes too long."""

    def __init__(self, facts: Facts, receive: Receive, options: GatewayOptions, held: Held) -> None:
        self._facts = facts
        self._held = held
        self._receive = receive
        self._limit = options.max_body_bytes
        self._timeout_s = options.timeout_s
        self._until_s = time.monotonic() + options.timeout_s
        self._complete = asyncio.Event()

    def check_announced(self) -> None:
        """Refuse a body that is too large before it is read."""
        announced = Headers(scope=self._facts.scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body, as ASGI's `receive`."""
        if self._complete.is_set():  # the only message that can follow says that the client left
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until_s - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError) as exc:
            # The connection is closed, because the rest of the body would be read as the next request.
            detail = f"the request's body did not come within {self._timeout_s:g} s"
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"connection": "close"}) from exc
        if message["type"] == "http.request":
            n_bytes = len(message.get("body", b""))
            self._facts.received += n_bytes
            self._held.n_bytes += n_bytes
            if not message.get("more_body", False):
                self._complete.set()
            if self._facts.received > self._limit:
                raise self._too_large()
            if self._held.n_bytes > self._held.limit:
                raise BusyError
        return message

    async def left(self) -> None:
        """Return when the client has left after sending all of the body."""
        await self._complete.wait()
        if (await self._receive())["type"] != "http.disconnect":
            await asyncio.Event().wait()  # no other message can follow

    def _too_large(self) -> RefusedError:
        return RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "the request's body is too large",
            expected=f"at most {self._limit:,} bytes",
            run="milvus-coop serve --max-body-mb N",
            headers={"connection": "close"},  # the rest of the body is not read
        )


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


async def read(request: Request, parse: Callable[[bytes], T]) -> T:
    """The whole body, parsed; outside the event loop if it is large. The errors are those of `parse`."""
    body = await request.body()
    return await run_in_threadpool(parse, body) if len(body) > LARGE else parse(body)


def describe(exc: ValidationError) -> str:
    """The first errors that pydantic found, without the values."""
    return "invalid request: " + told(exc.errors(include_url=False, include_input=False, include_context=False))
