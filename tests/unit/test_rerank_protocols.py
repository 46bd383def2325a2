"""Requests and answers of published rerank protocols, as the servers' documentation shows them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from milvus_coop.errors import BackendError
from milvus_coop.search.remote.protocols import PROTOCOLS
from milvus_coop.search.remote.reranker import grouped
from milvus_coop.servers.parts import Part

JPEG = b"\xff\xd8\xff"
URL = "data:image/jpeg;base64,/9j/"
IMAGE_PART = {"type": "image_url", "image_url": {"url": URL}}
QUERY = "a dog on a beach"

REQUESTS: list[tuple[str, Part, list[Part], dict[str, Any]]] = [
    # vLLM's examples/pooling/score/vision_rerank_api_online.py
    ("vllm", QUERY, ["one", JPEG], {"model": "m", "query": QUERY, "documents": ["one", {"content": [IMAGE_PART]}]}),
    ("vllm", JPEG, ["one"], {"model": "m", "query": {"content": [IMAGE_PART]}, "documents": ["one"]}),
    # SGLang's `V1RerankReqInput`: a string, or a list of parts
    (
        "sglang",
        JPEG,
        ["one", JPEG],
        {"model": "m", "query": [IMAGE_PART], "documents": ["one", [IMAGE_PART]], "return_documents": False},
    ),
    # NVIDIA's "VLM Reranking Requests"
    (
        "nim",
        QUERY,
        ["one", JPEG],
        {"model": "m", "query": {"text": QUERY}, "passages": [{"text": "one"}, {"image": URL}], "truncate": "END"},
    ),
    # Jina: text as {"text": ...}, an image as {"image": URL or base64}
    (
        "jina",
        QUERY,
        ["one", JPEG],
        {"model": "m", "query": QUERY, "documents": [{"text": "one"}, {"image": "/9j/"}], "return_documents": False},
    ),
    ("jina", JPEG, ["one"], {"model": "m", "query": {"image": "/9j/"}, "documents": [{"text": "one"}], "return_documents": False}),
    # https://docs.cohere.com/reference/rerank
    ("cohere", QUERY, ["one", "two"], {"model": "m", "query": QUERY, "documents": ["one", "two"]}),
    # docs/openapi.json of text-embeddings-inference; one server runs one model
    ("tei", QUERY, ["one", "two"], {"query": QUERY, "texts": ["one", "two"], "raw_scores": False, "truncate": True}),
]


@pytest.mark.parametrize(("protocol", "query", "documents", "body"), REQUESTS)
def test_requests(protocol: str, query: Part, documents: list[Part], body: dict[str, Any]) -> None:
    assert json.loads(PROTOCOLS[protocol].request("m", query, documents)) == body
    assert "model" not in json.loads(PROTOCOLS[protocol].request("", query, documents))


ANSWERS = [  # as the pages show them that milvus_coop/search/remote/protocols.py names
    (
        "vllm",
        '{"id": "rerank-fae51b2b664d4ed38f5969b612edff77", "model": "BAAI/bge-reranker-base", "usage": {"total_tokens": 56},'
        ' "results": [{"index": 1, "document": {"text": "The capital of France is Paris."}, "relevance_score": 0.99853515625},'
        ' {"index": 0, "document": {"text": "The capital of Brazil is Brasilia."}, "relevance_score": 0.0005860328674316406}]}',
        [0.0005860328674316406, 0.99853515625],
    ),
    (
        "sglang",
        '[{"score": 0.98, "index": 1, "meta_info": {"id": "x"}}, {"score": 0.01, "document": "hi", "index": 0}]',
        [0.01, 0.98],
    ),
    ("nim", '{"rankings": [{"index": 0, "logit": 0.7646484375}, {"index": 1, "logit": -1.109375}]}', [0.7646484375, -1.109375]),
    (
        "jina",
        '{"model": "jina-reranker-m0", "usage": {"total_tokens": 2829}, "results": [{"index": 1, "relevance_score":'
        ' 0.9587112551898949}, {"index": 0, "relevance_score": 0.9337408271911014}]}',
        [0.9337408271911014, 0.9587112551898949],
    ),
    (
        "cohere",
        '{"results": [{"index": 1, "relevance_score": 0.999071}, {"index": 0, "relevance_score": 0.7867867}],'
        ' "id": "07734bd2-2473-4f07-94e1-0d9f0e6843cf", "meta": {"api_version": {"version": "2"}, "billed_units": {}}}',
        [0.7867867, 0.999071],
    ),
    ("tei", '[{"index": 1, "score": 0.9976404}, {"index": 0, "score": 0.0016}]', [0.0016, 0.9976404]),
]


@pytest.mark.parametrize(("protocol", "answer", "scores"), ANSWERS)
def test_answers(protocol: str, answer: str, scores: list[float]) -> None:
    np.testing.assert_array_equal(PROTOCOLS[protocol].scores(answer.encode(), 2), scores)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("<html>", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON|no list"),
        ("null", "has no list results"),
        ('{"results": {"0": 1}}', "has no list results"),
        ('{"results": [{"index": 0, "relevance_score": 1}]}', "1 scores for 2 documents"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": 0, "relevance_score": 1}]}', "two scores for one"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": 2, "relevance_score": 1}]}', "a score for no document"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": -1, "relevance_score": 1}]}', "a score for no document"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": true, "relevance_score": 1}]}', "a score for no document"),
        ('{"results": [{"index": 0, "relevance_score": 1}, 7]}', "a score for no document"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": 1, "relevance_score": NaN}]}', "not a finite number"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": 1, "relevance_score": "1"}]}', "not a finite number"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": 1, "relevance_score": false}]}', "not a finite number"),
        ('{"results": [{"index": 0, "relevance_score": 1}, {"index": 1}]}', "not a finite number"),
        (
            '{"results": [{"index": 0, "relevance_score": 1}, {"index": 1, "relevance_score": 1' + "0" * 400 + "}]}",
            "not a finite number",
        ),
    ],
)
def test_answers_of_no_use(answer: str, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        PROTOCOLS["vllm"].scores(answer.encode(), 2)


def test_groups_of_documents() -> None:
    documents: list[Part] = ["a" * 40, bytes(30), "é" * 20, bytes(300), "b"]
    groups = [list(group) for group in grouped(100, documents)]
    assert groups == [documents[:2], documents[2:3], documents[3:4], documents[4:]]
    assert list(grouped(100, [])) == []


def test_a_text_that_no_encoding_can_write_is_sent_all_the_same() -> None:
    assert json.loads(PROTOCOLS["cohere"].request("", "a", ["\ud800 é"]))["documents"] == ["? é"]
