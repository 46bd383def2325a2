"""Asks a server for embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus

from milvus_coop.deadline import Deadline
from milvus_coop.errors import BackendError
from milvus_coop.models.remote.protocols import Role, embeddings_in
from milvus_coop.models.remote.server import EmbedServer
from milvus_coop.servers.parts import Part
from milvus_coop.servers.posting import Poster
from milvus_coop.types import Array, Kind

EMBEDDING_BYTES = 2**20
"""Maximum size of an embedding in an answer: 32,768 numbers of 32 characters."""
HINTS: Mapping[int, str] = {
    HTTPStatus.NOT_FOUND: "the path of its embedding requests in the address, and its model's name after ?model=",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "fewer inputs in a request, such as ?inputs=4 in the address",
    HTTPStatus.BAD_REQUEST: "the protocol that the server speaks, and a model that reads what is sent",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the protocol that the server speaks, and a model that reads what is sent",
}
"""What to change, by the status of an answer."""


class EmbedClient:
    """Asks one server. Safe to share between threads."""

    def __init__(self, server: EmbedServer) -> None:
        self._server = server
        self._poster = Poster(server.server, HINTS)

    @property
    def label(self) -> str:
        """Protocol and host of the server, for messages."""
        return self._server.server.label

    def portions(self, parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
        """The parts of each request: either texts or images, as many as the server takes at once."""
        return (parts[start : start + self._server.inputs] for start in range(0, len(parts), self._server.inputs))

    def embed(self, parts: Sequence[Part], role: Role, end: Deadline) -> Array:
        """The embeddings of the parts of one request, float32 of shape (n, dim), unit rows.

        Raises:
            BackendTimeoutError: there was no answer in time.
            BackendUnavailableError: the server cannot be reached, or is too busy.
            BackendError: the protocol has no such parts, the server refuses them, or its answer is of no use.
        """
        server, protocol = self._server, self._server.protocol
        kind: Kind = "text" if isinstance(parts[0], str) else "image"
        if kind not in protocol.kinds:
            raise BackendError(
                f"{self.label}: this protocol sends no {kind}s", expected="vllm+, nvclip+, nim+ or jina+ in the embedder's address"
            )
        body = protocol.request(server.server.model, parts, role, instruction=server.instruction, dimensions=server.dimensions)
        answer = self._poster.post(body, end, EMBEDDING_BYTES * len(parts))
        try:
            return embeddings_in(answer, len(parts))
        except BackendError as exc:
            raise BackendError(f"{self.label}: {exc.given}") from exc
