"""Requests and answers of `/v1/embeddings` in their published forms, and the addresses of servers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from milvus_coop.config import Settings
from milvus_coop.errors import BackendError, InvalidArgumentError
from milvus_coop.models.remote.embedder import spec_of
from milvus_coop.models.remote.protocols import PROTOCOLS, Role, embeddings_in
from milvus_coop.models.remote.server import EmbedServer, embed_server_of
from milvus_coop.servers.parts import Part

JPEG = b"\xff\xd8\xff"
URL = "data:image/jpeg;base64,/9j/"
FLOAT = {"model": "m", "encoding_format": "float"}


def user(part: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


REQUESTS: list[tuple[str, Role, list[Part], dict[str, Any]]] = [
    # https://platform.openai.com/docs/api-reference/embeddings/create
    ("openai", "item", ["one", "two"], {**FLOAT, "input": ["one", "two"]}),
    # https://build.nvidia.com/nvidia/nvclip/deploy
    ("nvclip", "query", ["one", JPEG], {**FLOAT, "input": ["one", URL]}),
    # the request body in the reference of NVIDIA's embedding NIM: an image is a passage, also when it searches
    ("nim", "query", ["one"], {**FLOAT, "input": ["one"], "input_type": "query", "truncate": "END"}),
    ("nim", "item", ["one"], {**FLOAT, "input": ["one"], "input_type": "passage", "truncate": "END"}),
    ("nim", "query", [JPEG], {**FLOAT, "input": [URL], "input_type": "passage", "truncate": "END"}),
    # https://api.jina.ai/redoc
    (
        "jina",
        "item",
        ["one", JPEG],
        {"model": "m", "input": [{"text": "one"}, {"image": "/9j/"}], "normalized": True, "embedding_type": "float"},
    ),
    # vLLM's openai_chat_embedding_client_for_multimodal.py
    ("vllm", "item", [JPEG], {**FLOAT, "messages": [user({"type": "image_url", "image_url": {"url": URL}})]}),
    ("vllm", "query", ["one"], {**FLOAT, "messages": [user({"type": "text", "text": "one"})]}),
]


@pytest.mark.parametrize(("protocol", "role", "parts", "body"), REQUESTS)
def test_requests(protocol: str, role: Role, parts: list[Part], body: dict[str, Any]) -> None:
    request = PROTOCOLS[protocol].request("m", parts, role, instruction="", dimensions=0)
    assert json.loads(request) == body
    shorter = PROTOCOLS[protocol].request("m", parts, role, instruction="", dimensions=64)
    assert json.loads(shorter) == {**body, "dimensions": 64}


def test_an_instruction() -> None:
    request = json.loads(PROTOCOLS["vllm"].request("m", ["one"], "item", instruction="Find.", dimensions=0))
    system, asked = request["messages"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "Find."}]}
    assert asked == user({"type": "text", "text": "one"})
    assert request["add_generation_prompt"]


def answer(*rows: object, **more: object) -> bytes:
    return json.dumps({"object": "list", "data": [{"index": i, "embedding": row, **more} for i, row in enumerate(rows)]}).encode()


def test_embeddings_are_unit_rows_in_the_order_of_the_inputs() -> None:
    content = json.dumps({"data": [{"index": 1, "embedding": [0, 2.0]}, {"index": 0, "embedding": [3, 4]}]}).encode()
    found = embeddings_in(content, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has no list data"),
        (b'{"data": 3}', "has no list data"),
        (answer([1.0]), "has 1 embeddings for 2 inputs"),
        (answer([1.0], [1.0], [1.0]), "an embedding for no input"),
        (answer([1.0], [1.0], index=0), "two for one"),
        (answer([1.0], [1.0], index=True), "an embedding for no input"),
        (answer([1.0, 2.0], [1.0]), "several lengths"),
        (answer([1.0], "AACAPw=="), "not a list of numbers"),
        (answer(1.0, 2.0), "not a list of numbers"),
        (answer([[1.0]], [[2.0]]), "not a list of numbers"),
        (answer([0.0], [1.0]), "zero or not finite"),
        (answer([float("nan")], [1.0]), "zero or not finite"),
        (answer([None], [1.0]), "zero or not finite"),
        (answer([10**400], [1.0]), "not a list of numbers"),
    ],
)
def test_answers_of_no_use(content: bytes, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        embeddings_in(content, 2)


def server(address: str, **settings: Any) -> EmbedServer:
    found = embed_server_of(Settings(embedder=address, **settings))
    assert found is not None
    return found


def test_addresses() -> None:
    assert embed_server_of(Settings()) is None
    found = server("nvclip+http://gpu:8000?model=nvidia%2Fnvclip&inputs=8&dimensions=512")
    assert (found.server.url, found.server.model) == ("http://gpu:8000/v1/embeddings", "nvidia/nvclip")
    assert (found.inputs, found.dimensions, found.instruction) == (8, 512, "")
    assert server("openai+https://host/v2/embed", embedder_model="m").server.url == "https://host/v2/embed"
    found = server("vllm+https://host?model=m&instruction=Represent+the+input.")
    assert (found.inputs, found.instruction) == (1, "Represent the input.")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://host", r"embedder is 'https://host'; expected: PROTOCOL\+https://host/path with PROTOCOL one of openai, vllm"),
        ("cohere+https://host?model=m", "PROTOCOL one of"),
        ("openai+https://host", r"openai\+https://host names no model; expected: \?model=NAME"),
        ("openai+https://host?model=%20", "names no model"),
        ("openai+https://host?model=m&instruction=x", r"openai\+ sends no instruction; expected: vllm\+"),
        ("openai+https://host?model=m&dim=3", "has the option 'dim'; expected: model or inputs or dimensions or instruction"),
        ("vllm+https://host?model=m&inputs=2", "inputs of the embedder is '2'; expected: a whole number from 1 to 1"),
        ("nim+https://host?model=m&dimensions=40000", "a whole number from 0 to 32,768"),
        ("openai+https://user:secret@host?model=m", "names a user, and perhaps a password"),
    ],
)
def test_wrong_addresses(address: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        server(address)
    assert "secret" not in str(caught.value)


def test_a_key_does_not_travel_in_the_clear() -> None:
    with pytest.raises(InvalidArgumentError, match="no MILVUS_COOP_EMBEDDER_KEY") as caught:
        server("openai+http://host?model=m", embedder_key="a-secret-key")
    assert "a-secret-key" not in str(caught.value)
    assert "a-secret-key" not in repr(server("openai+https://host?model=m", embedder_key="a-secret-key"))


def test_the_fingerprint_is_that_of_the_model() -> None:
    """A collection stays usable when its model moves to another host, and belongs to no other model."""
    first = spec_of(server("vllm+https://one?model=a/b"), 8)
    assert first.name == "a-b"
    assert spec_of(server("vllm+https://two:8000/path?model=a/b"), 8).fingerprint == first.fingerprint
    others = [
        spec_of(server("vllm+https://one?model=a/b"), 9),
        spec_of(server("vllm+https://one?model=a-b"), 8),
        spec_of(server("nim+https://one?model=a/b"), 8),
        spec_of(server("vllm+https://one?model=a/b&instruction=Find."), 8),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize("model", ["///", "模型", "." * 300, "-", "a" * 500])
def test_any_name_of_a_model(model: str) -> None:
    assert spec_of(server("vllm+https://one", embedder_model=model), 8).label
