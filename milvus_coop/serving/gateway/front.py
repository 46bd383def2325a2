"""The steps before and after the route of every request: id, access control, limits, metrics, log, and unexpected errors."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milvus_coop.serving.gateway.access import WATCHED, Access
from milvus_coop.serving.gateway.logs import log
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.pool import BusyError
from milvus_coop.serving.gateway.problems import RefusedError, refusal
from milvus_coop.serving.gateway.service import Service

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
BODIES = 8
"""Number of bodies of maximum size that may be in memory at the same time. Bodies arrive before any other limit applies."""
SHOWN_PATH = 256
"""Maximum number of characters of a path in the log."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}

Answer = Callable[[str, RefusedError, str], Response]
"""A function of the path, the error and the request's id. It returns the answer in the form that clients of that path expect."""


class FrontDoor:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service, answer: Answer) -> None:
        self._app = app
        self._service = service
        self._access = Access(service.options)
        self._answer = answer
        self._held = _Held(BODIES * service.options.max_body_bytes)
        self._headers = HEADERS | ({} if service.options.cors_origins else {"cross-origin-resource-policy": "same-origin"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send, self._headers)
        body = _Body(scope, receive, self._service.options, self._held)
        scope["request_id"] = request.id
        scope["facts"] = request.facts
        try:
            with self._service.tracing.request(scope):
                self._access.check(scope["path"], Headers(scope=scope))
                body.check_announced()
                await self._answer_unless_left(scope, request, body)
        except (RefusedError, HTTPException) as exc:
            refused = exc if isinstance(exc, RefusedError) else _refused(exc)
            request.facts["error"] = type(exc).__name__
            await self._answer(scope["path"], refused, request.id)(scope, receive, request.send)
        except Exception as exc:  # an unexpected error becomes a 500 and a log line with its traceback
            log("failed", level=logging.ERROR, exc_info=True, request_id=request.id, path=scope["path"][:SHOWN_PATH])
            request.facts["error"] = type(exc).__name__
            if request.status:
                raise  # a part of the answer was sent already; the server closes the connection
            await self._answer(scope["path"], refusal(exc), request.id)(scope, receive, request.send)
        finally:
            self._held.n_bytes -= body.received
            self._take_note(scope, request, body)

    async def _answer_unless_left(self, scope: Scope, request: _Request, body: _Body) -> None:
        """Answer the request. If the client leaves before that, stop; work that is still waiting is dropped."""
        answering = asyncio.ensure_future(self._app(scope, body.receive, request.send))
        leaving = asyncio.ensure_future(body.left())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done() or request.status:
                await answering
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    def _take_note(self, scope: Scope, request: _Request, body: _Body) -> None:
        route = getattr(scope.get("route"), "path", "none")
        seconds = time.perf_counter() - request.began_s
        metrics = self._service.metrics
        # A method without a route is not used as a label, because it could be any word.
        method = scope["method"] if route != "none" and request.status != HTTPStatus.METHOD_NOT_ALLOWED else "-"
        metrics.requests.labels(method, route, request.status).inc()
        metrics.seconds.labels(route).observe(seconds)
        error = request.facts.get("error") or scope.get("state", {}).get("error")
        if request.status >= 400 or request.status == 0:
            metrics.failures.labels(error or ("RefusedError" if request.status else "ClientLeft")).inc()
        elif route in WATCHED:  # these are requested every few seconds
            return
        facts = {
            "request_id": request.id,
            "method": scope["method"],
            "path": scope["path"][:SHOWN_PATH],
            "status": request.status or "closed",
            "ms": round(1000 * seconds, 1),
            "bytes_in": body.received,
            "bytes_out": request.sent,
            **request.facts,
        }
        log("request", **(facts | {"error": error}))


def _refused(exc: HTTPException) -> RefusedError:
    return RefusedError(HTTPStatus(exc.status_code), str(exc.detail), headers=dict(exc.headers or {}))


class _Request:
    """The id of one request, and facts about its answer."""

    def __init__(self, scope: Scope, send: Send, headers: dict[str, str]) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.facts: dict[str, object] = {}
        self.began_s = time.perf_counter()
        self.status = 0
        self.sent = 0
        self._send = send
        self._headers = headers

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        await self._send(message)


@dataclass(slots=True)
class _Held:
    """Total size of the bodies of all unanswered requests, in bytes. Only the event loop accesses it."""

    limit: int
    n_bytes: int = 0


class _Body:
    """The body of a request. It is refused if it is too large or takes too long to arrive."""

    def __init__(self, scope: Scope, receive: Receive, options: GatewayOptions, held: _Held) -> None:
        self.received = 0
        self._held = held
        self._announced = Headers(scope=scope).get("content-length", "")
        self._receive = receive
        self._limit = options.max_body_bytes
        self._timeout_s = options.timeout_s
        self._until_s = time.monotonic() + options.timeout_s
        self._complete = asyncio.Event()

    def check_announced(self) -> None:
        """Refuse a body that is too large before it is read."""
        if self._announced.isdecimal() and int(self._announced) > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        if self._complete.is_set():  # the only message that can follow says that the client left
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until_s - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError) as exc:
            # The connection is closed, because the rest of the body would be read as the next request.
            detail = f"the request's body did not come within {self._timeout_s:g} s"
            raise HTTPException(408, detail, headers={"connection": "close"}) from exc
        if message["type"] == "http.request":
            n_bytes = len(message.get("body", b""))
            self.received += n_bytes
            self._held.n_bytes += n_bytes
            if not message.get("more_body", False):
                self._complete.set()
            if self.received > self._limit:
                raise self._too_large()
            if self._held.n_bytes > self._held.limit:
                raise BusyError
        return message

    async def left(self) -> None:
        """Return when the client has left after sending all of the body."""
        await self._complete.wait()
        if (await self._receive())["type"] != "http.disconnect":
            await asyncio.Event().wait()  # no other message can follow

    def _too_large(self) -> HTTPException:
        detail = f"the request's body is too large; expected: at most {self._limit:,} bytes"
        return HTTPException(413, detail, headers={"connection": "close"})  # the rest of the body is not read
