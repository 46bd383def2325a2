"""Requests, answers and errors of each protocol, over HTTP."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milvus_coop import FakeBackend, load_bundle
from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.errors import BackendUnavailableError
from milvus_coop.models.tokens import pack
from milvus_coop.store.layout import string_of
from tests.gateway.rerank.kit import CAPTIONS, N, Running, World, running
from tests.waiting import GatedBackend, wait_until

PATHS = ("/v2/rerank", "/v1/rerank", "/rerank")
PHOTO = "03.png"


def asked(path: str, query: str, documents: list[Any], **more: Any) -> dict[str, Any]:
    return {"query": query, "texts" if path == "/rerank" else "documents": documents, **more}


def results(answer: httpx.Response) -> list[tuple[int, float]]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [(r["index"], r.get("relevance_score", r.get("score"))) for r in (body if isinstance(body, list) else body["results"])]


def message(path: str, answer: httpx.Response) -> str:
    """What an error says; checks that it has the protocol's form and nothing else."""
    body = answer.json()
    if path == "/v2/rerank":
        assert set(body) == {"id", "message"}
        return str(body["message"])
    if path == "/rerank":
        assert set(body) == {"error", "error_type"}
        assert body["error_type"] in ("validation", "tokenizer", "backend", "overloaded")
        return str(body["error"])
    assert set(body) == {"error", "detail"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == answer.status_code
    assert body["error"]["type"].endswith("Error")
    assert body["error"]["message"] == body["detail"]
    return str(body["detail"])


@pytest.fixture(scope="module")
def tokens(world: World) -> list[str]:
    """Token strings of the pictures, in the order of the CE for `green`, and nothing else."""
    with world.search() as search:
        hits = search.query("green", limit=N, k=N)
        rows = search.collection.rows([hit.id for hit in hits])
        return [string_of(rows[hit.id].content) for hit in hits]


@pytest.fixture(scope="module")
def probabilities(world: World) -> list[float]:
    with world.search() as search:
        return [hit.ce_score or 0.0 for hit in search.query("green", limit=N, k=N)]


@pytest.fixture(scope="module")
def picture(world: World) -> str:
    with world.search("captions") as search:
        encoded = search.encoder.encode_images([search.encoder.decode(world.folder / PHOTO)])
        return pack(encoded.tokens, encoded.scales)[0]


@pytest.mark.parametrize("path", PATHS)
def test_order_and_scores(service: Running, tokens: list[str], probabilities: list[float], path: str) -> None:
    shuffled = np.random.default_rng(0).permutation(N)
    answer = service.post(path, asked(path, "green", [tokens[i] for i in shuffled]))
    found = results(answer)
    assert [int(shuffled[i]) for i, _ in found] == list(range(N))
    assert [score for _, score in found] == pytest.approx(probabilities, abs=1e-6)
    assert answer.headers["x-milvus-coop-unreadable"] == "0"


@pytest.mark.parametrize("path", PATHS)
def test_a_picture_as_query(service: Running, world: World, picture: str, path: str) -> None:
    with world.search("captions") as search:
        expected = [(CAPTIONS.index(str(hit.text)), hit.ce_score) for hit in search.query(image=world.folder / PHOTO)]
    found = results(service.post(path, asked(path, picture, list(CAPTIONS))))
    assert [i for i, _ in found] == [i for i, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_cohere(service: Running, tokens: list[str]) -> None:
    model = service.service.models.encoder.spec.model_name
    body = service.post(
        "/v2/rerank", {"model": model, "query": "green", "documents": tokens, "top_n": 3, "max_tokens_per_doc": 9}
    ).json()
    assert set(body) == {"id", "results", "meta"}
    assert body["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    assert [set(result) for result in body["results"]] == [{"index", "relevance_score"}] * 3
    assert [result["index"] for result in body["results"]] == [0, 1, 2]


def test_jina_and_vllm(service: Running, tokens: list[str]) -> None:
    documents = [tokens[1], {"text": tokens[0]}]
    body = service.post("/v1/rerank", {"model": "toy-collection", "query": {"text": "green"}, "documents": documents}).json()
    assert set(body) == {"id", "model", "usage", "results"}
    assert body["id"].startswith("rerank-")
    assert body["model"] == service.service.models.encoder.spec.model_name
    assert body["usage"] == {"prompt_tokens": 34, "total_tokens": 34}  # of both pairs: one word, 16 tokens
    assert [result["document"]["text"] for result in body["results"]] == tokens[:2]
    short = service.post("/v1/rerank", {"query": "green", "documents": tokens, "top_n": 1, "return_documents": False}).json()
    assert [set(result) for result in short["results"]] == [{"index", "relevance_score"}]
    assert len(service.post("/v1/rerank", {"query": "green", "documents": tokens, "top_n": 0}).json()["results"]) == N


def test_tei(service: Running, tokens: list[str], probabilities: list[float]) -> None:
    options = {"raw_scores": True, "return_text": True, "truncate": True, "truncation_direction": "Right"}
    ranks = service.post("/rerank", {"query": "green", "texts": [*tokens[:3], "damaged"], **options}).json()
    assert [set(rank) for rank in ranks] == [{"index", "score", "text"}] * 4
    assert [rank["text"] for rank in ranks] == [*tokens[:3], "damaged"]
    logits = [float(np.log(p / (1 - p))) for p in probabilities[:3]]
    assert [rank["score"] for rank in ranks] == pytest.approx([*logits, -1e6], abs=1e-5)
    refused = service.post("/rerank", {"query": "green", "texts": tokens, "truncate": True, "truncation_direction": "Left"})
    assert refused.status_code == 422
    assert "cuts texts at the right only" in message("/rerank", refused)


@pytest.mark.parametrize(
    ("path", "texts", "more"),
    [
        ("/rerank", "documents", {}),  # vllm_client.go since 2.6.1
        ("/rerank", "documents", {"truncate_prompt_tokens": 512}),
        ("/v2/rerank", "documents", {}),  # the first 2.6
        ("/rerank", "texts", {}),  # tei.go
        ("/rerank", "texts", {"truncate": False, "truncation_direction": "Right"}),
    ],
)
def test_what_milvus_servers_send(service: Running, tokens: list[str], path: str, texts: str, more: dict[str, Any]) -> None:
    """By the sources of milvus-io/milvus: no model in the body, the endpoint's query kept; they need all scores, no documents."""
    model = service.service.models.encoder.spec.model_name
    answer = service.post(f"{path}?model={model}", {"query": "green", texts: tokens[::-1], **more})
    assert sorted(i for i, _ in results(answer)) == list(range(N))
    assert tokens[0] not in answer.text
    assert (isinstance(answer.json(), list)) is (texts == "texts")
    wrong = service.post(f"{path}?model=toy-collection@0000", {"query": "green", texts: tokens})
    assert wrong.status_code == 404
    assert "there is no model 'toy-collection@0000' here" in wrong.text


def test_equal_scores_keep_their_order(service: Running, tokens: list[str]) -> None:
    documents = [tokens[5], tokens[0], tokens[5], tokens[5]]
    assert [i for i, _ in results(service.post("/v2/rerank", asked("/v2/rerank", "green", documents)))] == [1, 0, 2, 3]


@pytest.mark.parametrize("path", PATHS)
def test_unreadable_documents(service: Running, tokens: list[str], path: str) -> None:
    nan = pack(np.ones((1, 16, 8), np.int8), np.full((1, 16), np.nan, np.float16))[0]
    damaged = [None, "", " ", "no base64", tokens[0][:-4], tokens[0] + "AAAA", nan, "é" * 200]
    answer = service.post(path, asked(path, "green", [*damaged, tokens[1], tokens[0]]))
    found = results(answer)
    assert [i for i, _ in found] == [9, 8, *range(8)]
    assert [score for _, score in found[2:]] == [0.0] * 8
    assert answer.headers["x-milvus-coop-unreadable"] == "8"
    if path == "/v2/rerank":
        assert answer.json()["meta"]["warnings"] == ["8 of 10 documents could not be read, and have the lowest score"]


def test_unreadable_texts(service: Running, picture: str) -> None:
    documents = ["a red dog", "", "x" * 20_001, picture, None]
    assert [score > 0 for _, score in results(service.post("/v2/rerank", asked("/v2/rerank", picture, documents)))] == [True] + [
        False
    ] * 4


@pytest.mark.parametrize("path", PATHS)
def test_data_uris_are_no_texts(service: Running, tokens: list[str], picture: str, path: str) -> None:
    """As the query they are refused. Among documents, one is unreadable, so that one stored text cannot stop all searches."""
    uri = "data:image/png;base64,AAAA"
    answer = service.post(path, asked(path, uri, tokens[:1]))
    assert answer.status_code in (400, 422)
    assert "the query is a data URI; expected: a text, or the image tokens" in message(path, answer)
    found = results(service.post(path, asked(path, picture, ["a dog", uri])))
    assert [(place, score > 0) for place, score in found] == [(0, True), (1, False)]
    assert service.post(path, asked(path, picture, [uri])).status_code == 422


@pytest.mark.parametrize("path", PATHS)
def test_nothing_readable(service: Running, picture: str, path: str) -> None:
    answer = service.post(path, asked(path, "green", ["a red dog", "a cat"]))
    assert answer.status_code == 422
    assert message(path, answer) == (
        "none of the 2 documents is a token string of bundle toy-collection 1; the first one has 9 characters: 'a red dog'; "
        'expected: values of the field `image_tokens`, as the query is a text: input_field_names=["image_tokens"]'
    )
    answer = service.post(path, asked(path, picture, [picture]))
    assert answer.status_code == 422
    assert 'as the query is an image: input_field_names=["text"]' in message(path, answer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query": None}, "invalid request: query"),
        ({"query": " "}, "the text is empty"),
        ({"query": "x" * 20_001}, "the text has 20,001 characters"),
        ({"documents": []}, "list of documents must not be empty"),
        ({"documents": "x"}, "invalid request: "),
        ({"documents": [1]}, "invalid request: "),
        ({"documents": None}, "invalid request: "),
    ],
)
def test_bad_bodies(service: Running, path: str, change: dict[str, Any], said: str) -> None:
    body = {"query": "green", "documents": ["x"], **change}
    if path == "/rerank":
        body["texts"] = body.pop("documents")
    answer = service.post(path, body)
    assert answer.status_code == (422 if path == "/rerank" else 400)
    assert said in message(path, answer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"query": "\\ud800"}', b"\xff", b"null", b"[" * 100_000])
def test_bodies_that_are_no_json(service: Running, path: str, content: bytes) -> None:
    answer = service.post(path, content)
    assert answer.status_code == (422 if path == "/rerank" else 400)
    assert "invalid request: " in message(path, answer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("below", ["", "/collections/images"])
def test_errors_before_the_route(service: Running, path: str, below: str) -> None:
    body = asked(path, "green", ["x"])
    answer = service.post(below + path, body, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert "the API key is wrong" in message(path, answer)
    answer = service.post(below + path, asked(path, "green", ["x" * 2**20]))
    assert answer.status_code == 413
    assert "too large" in message(path, answer)
    answer = service.post(below + path, asked(path, "green", ["x"] * 51))
    assert answer.status_code == 413
    assert "the request has 51 documents; expected: at most 50" in message(path, answer)


def test_a_body_in_pieces_that_is_too_large(service: Running) -> None:
    pieces = (b'{"query": "green", "documents": ["', *(b"x" * 65_536 for _ in range(20)))
    answer = httpx.post(f"{service.url}/v2/rerank", content=iter(pieces), headers=service.headers, timeout=60)
    assert answer.status_code == 413
    assert "too large" in message("/v2/rerank", answer)


@pytest.mark.parametrize(("path", "status"), [("/v2/rerank", 503), ("/v1/rerank", 503), ("/rerank", 424)])
def test_a_backend_that_is_away(world: World, tokens: list[str], path: str, status: int) -> None:
    backend = FakeBackend(load_bundle(world.bundle).spec)
    backend.failures[CROSS_ENCODER] = BackendUnavailableError("the server is away")
    with running(world.bundle, backend=backend) as broken:
        answer = broken.post(path, asked(path, "green", tokens))
        assert answer.status_code == status
        assert message(path, answer) == "the server is away"
        backend.failures[CROSS_ENCODER] = RuntimeError("a secret of ours")  # type: ignore[assignment]
        answer = broken.post(path, asked(path, "green", tokens))
        assert answer.status_code == (424 if path == "/rerank" else 500)
        assert "secret" not in message(path, answer)


def test_a_time_limit_between_batches(world: World, tokens: list[str]) -> None:
    backend = GatedBackend(load_bundle(world.bundle).spec, CROSS_ENCODER)
    with running(world.bundle, backend=backend, timeout_s=3.0, concurrency=1) as slow:
        answer = slow.post("/v2/rerank", asked("/v2/rerank", "green", tokens * 10))
        assert answer.status_code == 504
        assert backend.gate.passed == 0  # the first batch still runs
        backend.gate.open()
        # The late request has ended when nothing is pending.
        wait_until(lambda: "milvus_coop_pending 0.0" in httpx.get(f"{slow.url}/metrics", timeout=60).text)
        assert backend.rows.get(CROSS_ENCODER, 0) < 10 * N
        wait_until(lambda: slow.post("/v2/rerank", asked("/v2/rerank", "green", tokens)).status_code == 200)


def test_too_many_at_once(world: World, tokens: list[str]) -> None:
    backend = GatedBackend(load_bundle(world.bundle).spec, CROSS_ENCODER)
    with running(world.bundle, backend=backend, concurrency=1, waiting=0, timeout_s=100) as busy, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(busy.post, "/v2/rerank", asked("/v2/rerank", "green", tokens))
        while "milvus_coop_pending 1.0" not in httpx.get(f"{busy.url}/metrics", timeout=60).text:
            assert not slow.done()
        for path in PATHS:
            answer = busy.post(path, asked(path, "green", tokens))
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "1"
            assert "too many requests" in message(path, answer)
        backend.gate.open()
        assert results(slow.result())


def test_models(service: Running, tokens: list[str]) -> None:
    fingerprint = service.service.models.encoder.spec.fingerprint
    for model in ("", None, "toy-collection", f"toy-collection@{fingerprint[:4]}", f"toy-collection@{fingerprint}"):
        assert results(service.post("/v2/rerank", asked("/v2/rerank", "green", tokens, model=model)))
    for model in ("rerank-v3.5", "toy", "toy-collection@", "toy-collection@0", f"x@{fingerprint}"):
        answer = service.post("/v1/rerank", asked("/v1/rerank", "green", tokens, model=model))
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "NotFoundError")
        assert f"expected: 'toy-collection@{fingerprint[:8]}'" in message("/v1/rerank", answer)


def test_the_schema_describes_them(service: Running) -> None:
    paths = httpx.get(f"{service.url}/openapi.json", timeout=60).json()["paths"]
    for path in (*PATHS, *(f"/collections/{{collection}}{path}" for path in PATHS), "/v1/embeddings"):
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert re.search("'(query|input)'", str(schema))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
BODIES = JSON | st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("query", "documents", "texts", "model", "top_n", "raw_scores", "return_documents", "input"), JSON),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([*PATHS, "/v1/embeddings"]), body=BODIES)
def test_no_body_breaks_it(service: Running, path: str, body: Any) -> None:
    answer = service.post(path, body)
    assert answer.status_code in (200, 400, 404, 422)
    if answer.status_code != 200 and path != "/v1/embeddings":
        is_vllm = path == "/rerank" and isinstance(body, dict) and "documents" in body
        assert message("/v1/rerank" if is_vllm else path, answer)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([*PATHS, "/v1/embeddings"]), body=st.binary(max_size=200))
def test_no_bytes_break_it(service: Running, path: str, body: bytes) -> None:
    assert service.post(path, body).status_code in (400, 404, 422)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(st.none() | st.text(max_size=50) | st.binary(min_size=160, max_size=160), min_size=1, max_size=5))
def test_any_tokens_have_scores_or_are_unreadable(service: Running, documents: list[Any]) -> None:
    """Random bytes of the right length are tokens too, with scales that may be no numbers."""
    texts = [pack(*_arrays(d))[0] if isinstance(d, bytes) else d for d in documents]
    answer = service.post("/rerank", {"query": "a red dog", "texts": texts, "raw_scores": True})
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        assert len(answer.json()) == len(documents)
        assert all(np.isfinite(rank["score"]) for rank in answer.json())


def _arrays(raw: bytes) -> tuple[Any, Any]:
    return np.frombuffer(raw[:128], np.int8).reshape(1, 16, 8), np.frombuffer(raw[128:], "<f2").reshape(1, 16)
