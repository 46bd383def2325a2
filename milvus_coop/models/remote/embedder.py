"""`open_embedder`: opens the server that settings name, in the place of a bundle."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from milvus_coop.bundle.spec import (
    CROSS_ENCODER,
    IMAGE_ENCODER,
    TEXT_ENCODER,
    BundleSpec,
    GraphSpec,
    ImageSpec,
    TensorSpec,
    TextSpec,
    TokenSpec,
)
from milvus_coop.config import Settings
from milvus_coop.deadline import Deadline
from milvus_coop.errors import BackendError
from milvus_coop.models.preprocess.texts import MAX_CHARACTERS
from milvus_coop.models.remote.client import EmbedClient
from milvus_coop.models.remote.encoder import RemoteEncoder
from milvus_coop.models.remote.server import EmbedServer
from milvus_coop.servers.parts import EDGE
from milvus_coop.types import Array

PROBE = "a red apple"
"""A text whose embedding shows their length."""


class ServerOnly:
    """The backend of an embedding server: it has no graphs to run.

    Args:
        spec: the facts about the server's model, in the form of a bundle.
    """

    def __init__(self, spec: BundleSpec) -> None:
        self._spec = spec

    @property
    def spec(self) -> BundleSpec:
        """The facts about the server's model, in the form of a bundle."""
        return self._spec

    def run(self, graph: str, inputs: Mapping[str, Array], *, timeout_s: float | None = None) -> dict[str, Array]:
        """Fail.

        Raises:
            BackendError: always.
        """
        raise BackendError(f"an embedder has no {graph}", expected="no embedder, so that the bundle is used")

    def load(self, graphs: Sequence[str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_embedder(server: EmbedServer, settings: Settings) -> tuple[ServerOnly, RemoteEncoder]:
    """The backend and the encoder for a server. It is asked for one embedding, whose length every other one must have.

    Raises:
        BackendTimeoutError, BackendUnavailableError, BackendError: see `EmbedClient.embed`.
    """
    client = EmbedClient(server)
    (probe,) = client.embed([PROBE], "item", Deadline(settings.timeout_s))
    spec = spec_of(server, len(probe))
    encoder = RemoteEncoder(
        client,
        spec,
        timeout_s=settings.timeout_s,
        max_pixels=settings.max_pixels,
        remembered_texts=settings.remembered_texts,
    )
    return ServerOnly(spec), encoder


def spec_of(server: EmbedServer, dim: int) -> BundleSpec:
    """The facts about a server's model, in the form of a bundle, so that a collection can belong to the model.

    The fingerprint depends on the names of the model and the protocol, the instruction, and the length of the embeddings. The host
    does not count: a model that moves stays the same.
    """
    identity = "\n".join((server.server.protocol, server.server.model, server.instruction))
    embedding = {kind: TensorSpec(f"{kind}_embedding", "float32", (dim,)) for kind in ("text", "image")}
    return BundleSpec(
        name=re.sub(r"[^\w.-]+", "-", server.server.model)[:100].strip("-._") or "model",
        version=hashlib.sha256(identity.encode(errors="replace")).hexdigest()[:8],
        kind="separate",
        dim=dim,
        image=ImageSpec(EDGE, (0, 0, 0), (1, 1, 1)),
        text=TextSpec(MAX_CHARACTERS),
        tokens=TokenSpec(0, 0, "nowhere"),
        graphs=(
            GraphSpec(TEXT_ENCODER, "none", (), (embedding["text"],)),
            GraphSpec(IMAGE_ENCODER, "none", (), (embedding["image"],)),
            GraphSpec(CROSS_ENCODER, "none", (), ()),
        ),
    )
