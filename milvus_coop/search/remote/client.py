"""Asks a rerank server for the scores of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import numpy as np

from milvus_coop.deadline import Deadline
from milvus_coop.errors import BackendError
from milvus_coop.models.reranker import PairScores, logit
from milvus_coop.search.remote.address import RerankServer
from milvus_coop.servers.parts import Part
from milvus_coop.servers.posting import Poster

ANSWER_BYTES = 4 * 2**20
"""Maximum size of an answer, beside twice the size of the request: vLLM repeats the documents."""
TOLERANCE = 1e-6
"""How far a probability may be outside of 0 to 1, because servers compute in float32 and less."""
LARGEST_LOGIT = 500.0
"""Larger logits count as this one. In float64, the probabilities of logits up to 36 are less than 1 and differ."""
HINTS: Mapping[int, str] = {
    HTTPStatus.NOT_FOUND: "the path of its rerank requests in the address, and its model's name after ?model=",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "fewer documents in a request, such as ?documents=8 in the address",
    HTTPStatus.BAD_REQUEST: "the protocol that the server speaks, and a model that reads the query and the items",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the protocol that the server speaks, and a model that reads the query and the items",
}
"""What to change, by the status of an answer."""


class RerankClient:
    """Asks one server. Safe to share between threads."""

    def __init__(self, server: RerankServer, timeout_s: float) -> None:
        self._protocol = server.protocol
        self._scale = server.scale
        self._model, self._label = server.server.model, server.server.label
        self._timeout_s = timeout_s
        self._poster = Poster(server.server, HINTS)

    def score(self, query: Part, documents: Sequence[Part], deadline: Deadline) -> PairScores:
        """The scores of documents, in their order.

        Raises:
            BackendTimeoutError: there was no answer within the time limit of a request, or before the deadline.
            BackendUnavailableError: the server cannot be reached, or is too busy.
            BackendError: the server refuses the request, or its answer is of no use. Messages show neither the key nor the query.
        """
        body = self._protocol.request(self._model, query, documents)
        answer = self._poster.post(body, Deadline(deadline.within(self._timeout_s)), ANSWER_BYTES + 2 * len(body))
        try:
            scores = self._protocol.scores(answer, len(documents))
        except BackendError as exc:
            raise BackendError(f"{self._label}: {exc.given}") from exc
        if self._scale == "logit":
            logits = np.clip(scores, -LARGEST_LOGIT, LARGEST_LOGIT)
            return PairScores(1.0 / (1.0 + np.exp(-logits)), logits)
        if scores.size and not (scores.min() >= -TOLERANCE and scores.max() <= 1 + TOLERANCE):
            raise BackendError(
                f"{self._label}: the answer has a score outside of 0 to 1",
                expected="probabilities; or ?scores=logit in the address, if the server's scores are logits",
            )
        probability = np.clip(scores, 0.0, 1.0)
        return PairScores(probability, logit(probability))
