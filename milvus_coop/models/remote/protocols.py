"""Published forms of `/v1/embeddings`: of requests, and of the one answer that they share.

jina    https://api.jina.ai/redoc
nim     https://docs.nvidia.com/nim/nemo-retriever/text-embedding/2.0.0/reference.html
nvclip  https://build.nvidia.com/nvidia/nvclip/deploy; the service of this project takes the same form
openai  https://platform.openai.com/docs/api-reference/embeddings
vllm    https://docs.vllm.ai/en/v0.9.2/examples/online_serving/openai_chat_embedding_client_for_multimodal.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from milvus_coop.errors import BackendError
from milvus_coop.servers.parts import Body, Part, data_url, image_part, in_base64
from milvus_coop.types import Array, Kind

PATH = "/v1/embeddings"
Role = Literal["query", "item"]
"""The role of what is encoded: it searches, or it is found."""


@dataclass(frozen=True, slots=True)
class EmbedProtocol:
    """The form of requests."""

    body: Callable[[Sequence[Part], Role, str], Body]
    """The body of a request without the model: from the parts, their role, and the instruction for the model."""
    kinds: frozenset[Kind] = frozenset({"text", "image"})
    """The kinds of parts that the protocol can express. A model may read fewer."""
    is_single: bool = False
    """True if a request has one part."""
    has_instruction: bool = False
    """True if requests can carry an instruction."""

    def request(self, model: str, parts: Sequence[Part], role: Role, *, instruction: str, dimensions: int) -> bytes:
        """The body of a request as JSON.

        Args:
            model: name of the model.
            parts: the texts or images.
            role: what they are encoded for.
            instruction: instruction for the model; '' for none.
            dimensions: length of the embeddings; 0 for the model's own.
        """
        asked = {"model": model, **({"dimensions": dimensions} if dimensions else {}), **self.body(parts, role, instruction)}
        return json.dumps(asked, ensure_ascii=False).encode(errors="replace")


def embeddings_in(content: bytes, n: int) -> Array:
    """The embeddings in an answer, float32 of shape (n, dim), unit rows in the order of the parts.

    Raises:
        BackendError: the answer has another form, or not one embedding for each part.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise BackendError("the answer is not JSON") from exc
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise BackendError("the answer has no list data")
    rows: dict[int, object] = {}
    for item in listed:
        index, embedding = (item.get(name) for name in ("index", "embedding")) if isinstance(item, dict) else (None, None)
        if type(index) is not int or not 0 <= index < n or index in rows:
            raise BackendError("the answer has an embedding for no input, or two for one")
        rows[index] = embedding
    if len(rows) != n:
        raise BackendError(f"the answer has {len(rows):,} embeddings for {n:,} inputs")
    try:
        vectors = np.asarray([rows[index] for index in range(n)], dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise BackendError("the answer has an embedding that is not a list of numbers, or embeddings of several lengths") from exc
    if vectors.ndim != 2:
        raise BackendError("the answer has an embedding that is not a list of numbers")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise BackendError("the answer has an embedding that is zero or not finite")
    return (vectors / lengths).astype(np.float32)  # type: ignore[no-any-return]


def _strings(parts: Sequence[Part]) -> list[str]:
    return [part if isinstance(part, str) else data_url(part) for part in parts]


def _openai(parts: Sequence[Part], role: Role, instruction: str) -> Body:
    return {"input": _strings(parts), "encoding_format": "float"}


def _nim(parts: Sequence[Part], role: Role, instruction: str) -> Body:
    # Images are only taken as passages, also when an image is the query.
    is_query = role == "query" and all(isinstance(part, str) for part in parts)
    input_type = "query" if is_query else "passage"
    return {"input": _strings(parts), "encoding_format": "float", "input_type": input_type, "truncate": "END"}


def _jina(parts: Sequence[Part], role: Role, instruction: str) -> Body:
    inputs = [{"text": part} if isinstance(part, str) else {"image": in_base64(part)} for part in parts]
    return {"input": inputs, "normalized": True, "embedding_type": "float"}


def _vllm(parts: Sequence[Part], role: Role, instruction: str) -> Body:
    (part,) = parts
    content = {"type": "text", "text": part} if isinstance(part, str) else image_part(part)
    user = {"role": "user", "content": [content]}
    if not instruction:
        return {"messages": [user], "encoding_format": "float"}
    system = {"role": "system", "content": [{"type": "text", "text": instruction}]}
    return {"messages": [system, user], "add_generation_prompt": True, "encoding_format": "float"}


PROTOCOLS: Mapping[str, EmbedProtocol] = {
    "openai": EmbedProtocol(_openai, kinds=frozenset({"text"})),
    "vllm": EmbedProtocol(_vllm, is_single=True, has_instruction=True),
    "nvclip": EmbedProtocol(_openai),
    "nim": EmbedProtocol(_nim),
    "jina": EmbedProtocol(_jina),
}
"""The protocols by the name that an address begins with."""
