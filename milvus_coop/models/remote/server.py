"""The embedding server that settings name."""

from __future__ import annotations

from dataclasses import dataclass

from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.remote.protocols import PATH, PROTOCOLS, EmbedProtocol
from milvus_coop.servers.address import Server, server_of

INPUTS = 32
"""Default maximum of inputs in one request."""
MAX_INPUTS = 512
MAX_DIMENSIONS = 32_768
OPTIONS = ("model", "inputs", "dimensions", "instruction")
"""What an address may say after its `?`."""


@dataclass(frozen=True, slots=True)
class EmbedServer:
    """A server, and the form of requests to it."""

    server: Server
    protocol: EmbedProtocol
    inputs: int = INPUTS
    """Maximum number of inputs in one request."""
    dimensions: int = 0
    """Length of the embeddings that are asked for; 0 for the model's own."""
    instruction: str = ""
    """Instruction for the model; '' for none."""


def embed_server_of(settings: Settings) -> EmbedServer | None:
    """The server that the settings name; None if they name none.

    Raises:
        InvalidArgumentError: see `server_of`; or the address names no model, or an option that does not fit the protocol.
    """
    server = server_of(settings, "embedder", dict.fromkeys(PROTOCOLS, PATH), OPTIONS)
    if server is None:
        return None
    protocol = PROTOCOLS[server.protocol]
    if not server.model.strip():
        raise InvalidArgumentError(
            f"the embedder {server.label} names no model",
            expected="?model=NAME in its address, because a collection belongs to one",
        )
    instruction = server.options.get("instruction", "")
    if instruction and not protocol.has_instruction:
        raise InvalidArgumentError(f"{server.protocol}+ sends no instruction", expected="vllm+, or no instruction")
    inputs = server.number("inputs", 1 if protocol.is_single else INPUTS, 1 if protocol.is_single else MAX_INPUTS)
    return EmbedServer(server, protocol, inputs, server.number("dimensions", 0, MAX_DIMENSIONS, minimum=0), instruction)
