"""The steps before and after the route of every request: access control, limits, metrics, log, and errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milvus_coop.serving.gateway.access import WATCHED, Access
from milvus_coop.serving.gateway.bodies import Arriving, Held
from milvus_coop.serving.gateway.facts import NO_ROUTE, Facts
from milvus_coop.serving.gateway.logs import log
from milvus_coop.serving.gateway.problems import ErrorForm, is_expected, refusal
from milvus_coop.serving.gateway.service import Service

BODIES = 8
"""Number of bodies of maximum size that may be in memory at the same time. Bodies arrive before any other limit applies."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class FrontDoor:
    """ASGI middleware around the whole application. Every error of a request becomes an answer here, and nowhere else.

    Args:
        app: the application.
        service: the service, with its options.
        form: a function of a path. It returns the form of errors that clients of that path expect.
    """

    def __init__(self, app: ASGIApp, service: Service, form: Callable[[str], ErrorForm]) -> None:
        self._app = app
        self._service = service
        self._access = Access(service.options)
        self._form = form
        self._held = Held(BODIES * service.options.max_body_bytes)
        self._headers = HEADERS | ({} if service.options.cors_origins else {"cross-origin-resource-policy": "same-origin"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        facts = scope["facts"] = Facts(scope)
        body = Arriving(facts, receive, self._service.options, self._held)
        try:
            with self._service.tracing.request(facts):
                await self._handle(facts, body, self._sender(facts, send))
        finally:
            self._held.n_bytes -= facts.received
            self._take_note(facts)

    async def _handle(self, facts: Facts, body: Arriving, send: Send) -> None:
        try:
            facts.filter = self._access.check(facts.scope["path"], Headers(scope=facts.scope))
            body.check_announced()
            await self._answer_unless_left(facts, body, send)
        except ClientDisconnect:  # the client left before it had sent all of the body
            facts.client_left()
        except Exception as exc:
            facts.error = type(exc).__name__
            if not is_expected(exc):
                log("failed", level=logging.ERROR, exc_info=True, request_id=facts.id, path=facts.path)
            if facts.status:
                raise  # a part of the answer was sent already; the server closes the connection
            refused = refusal(exc)
            if refused.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                facts.logged["reason"] = refused.detail
            answer = (facts.form or self._form(facts.scope["path"]))(refused.said(self._service.hide), facts.id)
            await answer(facts.scope, body.receive, send)

    async def _answer_unless_left(self, facts: Facts, body: Arriving, send: Send) -> None:
        """Answer the request. If the client leaves before that, stop; work that is still waiting is dropped."""
        answering = asyncio.ensure_future(self._app(facts.scope, body.receive, send))
        leaving = asyncio.ensure_future(body.left())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done() or facts.status:
                await answering
            else:
                facts.client_left()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    def _sender(self, facts: Facts, send: Send) -> Send:
        """A `send` that adds the headers of every answer, and takes note of the status and the size."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = facts.id
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            elif message["type"] == "http.response.body":
                facts.sent += len(message.get("body", b""))
            await send(message)

        return noting

    def _take_note(self, facts: Facts) -> None:
        metrics = self._service.metrics
        if not facts.status:  # the service was stopped, and did not wait any longer for this request
            facts.status, facts.error = HTTPStatus.SERVICE_UNAVAILABLE.value, "Stopped"
        # A method without a route is not used as a label, because it could be any word.
        known = facts.route != NO_ROUTE and facts.status != HTTPStatus.METHOD_NOT_ALLOWED
        metrics.requests.labels(facts.method if known else "-", facts.route, facts.status).inc()
        metrics.seconds.labels(facts.route).observe(facts.seconds)
        if facts.status < HTTPStatus.BAD_REQUEST and facts.route in WATCHED:  # these are requested every few seconds
            return
        if facts.status >= HTTPStatus.BAD_REQUEST:
            metrics.failures.labels(facts.error or "RefusedError").inc()
        log("request", **facts.line())
