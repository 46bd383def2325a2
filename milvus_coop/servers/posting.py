"""Requests to a model server. They change nothing there, so a request that had no answer can be sent again."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from milvus_coop.deadline import Deadline
from milvus_coop.errors import BackendError, BackendTimeoutError, BackendUnavailableError
from milvus_coop.servers.address import Server
from milvus_coop.servers.http import Address, Answer, LateError, NoAnswerError, ask, is_any

REPEATS = 2
"""Maximum number of times that a request is sent again."""
PAUSE_S = 0.1
"""Pause before a request is sent again because there was no answer; it doubles. It is also the shortest pause for `Retry-After`."""
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Poster:
    """Sends requests to one server. Safe to share between threads.

    Args:
        server: the server.
        hints: what to change, by the status of an answer. The body of an error is not shown, because servers repeat in it what they
            were asked.
    """

    def __init__(self, server: Server, hints: Mapping[int, str]) -> None:
        self._server = server
        self._hints = {
            HTTPStatus.UNAUTHORIZED: f"a key: {server.key_variable}",
            HTTPStatus.FORBIDDEN: f"a key that may do this: {server.key_variable}",
            **hints,
        }
        self._tls = None if server.is_plain else ssl.create_default_context(cafile=server.ca_file or None)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if server.key:
            self._headers["Authorization"] = f"Bearer {server.key}"

    def post(self, body: bytes, end: Deadline, limit_bytes: int) -> bytes:
        """The content of the answer to a request.

        Args:
            body: the body of the request, JSON.
            end: the moment at which the answer must be there.
            limit_bytes: maximum size of the answer.

        Raises:
            BackendTimeoutError: there was no answer in time.
            BackendUnavailableError: the server cannot be reached, or is too busy.
            BackendError: the server refuses the request. Messages show neither the key nor the request.
        """
        label, pause_s, sent = self._server.label, PAUSE_S, 0
        while True:
            began_s = end.remaining()
            if began_s <= 0:
                raise BackendTimeoutError(f"no time was left to ask {label}")
            try:
                answer = self._ask(body, began_s, limit_bytes)
                if answer.status == HTTPStatus.OK:
                    return answer.content
                problem: BackendError = self._refusal(answer)
                wait_s = _retry_after_s(answer) if answer.status in BUSY else None
            except LateError as exc:
                raise BackendTimeoutError(f"{label} did not answer within {began_s:.3g} s") from exc
            except NoAnswerError as exc:
                problem = BackendUnavailableError(f"{label} cannot be reached: {exc}")
                wait_s, pause_s = pause_s, 2 * pause_s
            except OSError as exc:
                raise BackendUnavailableError(f"{label} gives no answer: {exc}") from exc
            if sent == REPEATS or wait_s is None or wait_s >= end.remaining():
                raise problem
            sent += 1
            time.sleep(wait_s)

    def _ask(self, body: bytes, limit_s: float, limit_bytes: int) -> Answer:
        server = self._server
        return ask(
            server.url,
            body=body,
            headers=self._headers,
            limit_bytes=limit_bytes,
            limit_s=limit_s,
            wait_s=limit_s,
            is_allowed=_is_loopback if server.is_plain and server.key else is_any,
            tls=self._tls,
        )

    def _refusal(self, answer: Answer) -> BackendError:
        status = answer.status
        if status in BUSY:
            return BackendUnavailableError(f"{self._server.label} answers {status}: it is too busy")
        if status // 100 == 3:
            return BackendError(
                f"{self._server.label} answers {status}, and redirects are not followed", expected="the address that it leads to"
            )
        return BackendError(f"{self._server.label} answers {status}", expected=self._hints.get(status, ""))


def _retry_after_s(answer: Answer) -> float | None:
    """The pause that an answer asks for, in seconds; None if it asks for none."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return max(PAUSE_S, float(text[:9]))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return max(PAUSE_S, (moment - datetime.now(timezone.utc)).total_seconds())


def _is_loopback(address: Address) -> bool:
    return address.is_loopback
