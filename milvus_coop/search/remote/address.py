"""The rerank server that settings name, and what may be sent to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from milvus_coop.config import Settings
from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.roots import folders_of, prefixes_of
from milvus_coop.errors import InvalidArgumentError, quoted
from milvus_coop.models.preprocess.images import MAX_PIXELS
from milvus_coop.search.remote.protocols import PROTOCOLS, RerankProtocol
from milvus_coop.servers.address import Server, server_of

Scale = Literal["probability", "logit"]
DOCUMENTS = 64
"""Default maximum of documents in one request."""
MAX_DOCUMENTS = 512
OPTIONS = ("model", "scores", "documents")
"""What an address may say after its `?`."""


@dataclass(frozen=True, slots=True)
class RerankServer:
    """A server, and what may be sent to it."""

    server: Server
    protocol: RerankProtocol
    scale: Scale = "probability"
    """What the server's scores are."""
    documents: int = DOCUMENTS
    """Maximum number of documents in one request."""
    folders: Sequence[Path] = ()
    """Folders whose images may be sent, with symbolic links resolved."""
    prefixes: Sequence[RemoteFile] = ()
    """Prefixes of object stores whose images may be sent."""
    max_pixels: int = MAX_PIXELS
    """Maximum number of pixels of an image that is read."""


def rerank_server_of(settings: Settings) -> RerankServer | None:
    """The server that the settings name; None if they name none.

    Raises:
        InvalidArgumentError: see `server_of`; or a root cannot be used.
        SourceError: the driver of a root is not installed.
    """
    server = server_of(settings, "reranker", {name: protocol.path for name, protocol in PROTOCOLS.items()}, OPTIONS)
    if server is None:
        return None
    protocol = PROTOCOLS[server.protocol]
    scale = server.options.get("scores", "logit" if protocol.has_logits else "probability")
    if scale not in get_args(Scale):
        raise InvalidArgumentError(f"scores of the reranker is {quoted(scale)}", expected=" or ".join(get_args(Scale)))
    return RerankServer(
        server,
        protocol,
        scale,  # type: ignore[arg-type]
        server.number("documents", DOCUMENTS, MAX_DOCUMENTS),
        folders_of(settings.reranker_roots),
        prefixes_of(settings.reranker_roots),
        settings.max_pixels,
    )
