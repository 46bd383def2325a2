"""Requests to a rerank server. A rerank changes nothing there, so a request that had no answer can be sent again."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import numpy as np

from milvus_coop.deadline import Deadline
from milvus_coop.elsewhere.http import Address, Answer, LateError, NoAnswerError, ask, is_any
from milvus_coop.errors import BackendError, BackendTimeoutError, BackendUnavailableError
from milvus_coop.models.reranker import PairScores, logit
from milvus_coop.search.remote.address import KEY, RerankServer
from milvus_coop.search.remote.protocols import Part

REPEATS = 2
"""Maximum number of times that a request is sent again."""
PAUSE_S = 0.1
"""Pause before a request is sent again because there was no answer; it doubles. It is also the shortest pause for `Retry-After`."""
ANSWER_BYTES = 4 * 2**20
"""Maximum size of an answer, beside twice the size of the request: vLLM repeats the documents."""
TOLERANCE = 1e-6
"""How far a probability may be outside of 0 to 1, because servers compute in float32 and less."""
LARGEST_LOGIT = 500.0
"""Larger logits count as this one. In float64, the probabilities of logits up to 36 are less than 1 and differ."""
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
HINTS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: f"a key: {KEY}",
    HTTPStatus.FORBIDDEN: f"a key that may do this: {KEY}",
    HTTPStatus.NOT_FOUND: "the path of its rerank requests in the address, and its model's name after ?model=",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "fewer documents in a request, such as ?documents=8 in the address",
    HTTPStatus.BAD_REQUEST: "the protocol that the server speaks, and a model that reads the query and the items",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the protocol that the server speaks, and a model that reads the query and the items",
}
"""What to change, by the status of an answer. The body of an error is not shown, because servers repeat the query in it."""


class RerankClient:
    """Asks one server. Safe to share between threads."""

    def __init__(self, server: RerankServer, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._tls = None if server.is_plain else ssl.create_default_context(cafile=server.ca_file or None)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if server.key:
            self._headers["Authorization"] = f"Bearer {server.key}"

    def score(self, query: Part, documents: Sequence[Part], deadline: Deadline) -> PairScores:
        """The scores of documents, in their order.

        Raises:
            BackendTimeoutError: there was no answer within the time limit of a request, or before the deadline.
            BackendUnavailableError: the server cannot be reached, or is too busy.
            BackendError: the server refuses the request, or its answer is of no use. Messages show neither the key nor the query.
        """
        body = self._server.protocol.request(self._server.model, query, documents)
        answer = self._post(body, Deadline(deadline.within(self._timeout_s)))
        try:
            scores = self._server.protocol.scores(answer.content, len(documents))
        except BackendError as exc:
            raise BackendError(f"{self._server.label}: {exc.given}") from exc
        if self._server.scale == "logit":
            logits = np.clip(scores, -LARGEST_LOGIT, LARGEST_LOGIT)
            return PairScores(1.0 / (1.0 + np.exp(-logits)), logits)
        if scores.size and not (scores.min() >= -TOLERANCE and scores.max() <= 1 + TOLERANCE):
            raise BackendError(
                f"{self._server.label}: the answer has a score outside of 0 to 1",
                expected="probabilities; or ?scores=logit in the address, if the server's scores are logits",
            )
        probability = np.clip(scores, 0.0, 1.0)
        return PairScores(probability, logit(probability))

    def _post(self, body: bytes, end: Deadline) -> Answer:
        label, pause_s, sent = self._server.label, PAUSE_S, 0
        while True:
            began_s = end.remaining()
            if began_s <= 0:
                raise BackendTimeoutError(f"no time was left to ask {label}")
            try:
                answer = self._ask(body, began_s)
                if answer.status == HTTPStatus.OK:
                    return answer
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

    def _ask(self, body: bytes, limit_s: float) -> Answer:
        server = self._server
        return ask(
            server.url,
            body=body,
            headers=self._headers,
            limit_bytes=ANSWER_BYTES + 2 * len(body),
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
        return BackendError(f"{self._server.label} answers {status}", expected=HINTS.get(status, ""))


def _retry_after_s(answer: Answer) -> float | None:
    """The pause that an answer asks for, in seconds; None if it asks for none."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return max(PAUSE_S, float(text[:9]))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return max(PAUSE_S, (moment - datetime.now(timezone.utc)).total_seconds())


def _is_loopback(address: Address) -> bool:
    return address.is_loopback
