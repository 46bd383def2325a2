"""A limit of the requests with each key: a bucket for each, and an answer that says when to come back."""

from __future__ import annotations

import pytest

from milvus_coop import FakeBackend, load_bundle
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.gateway.access import Bucket
from milvus_coop.serving.gateway.options import GatewayOptions
from tests.gateway.conftest import KEY, MakeClient

OTHER = "another-key-0123456789"
SLOW = 1 / 3600
"""A rate at which no second request comes during a test."""


def test_buckets() -> None:
    now_s = 100.0
    bucket = Bucket(2.0, 3, clock=lambda: now_s)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == 0.5
    now_s += 0.5
    assert bucket.take() == 0
    assert bucket.take() == 0.5
    now_s += 1000
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == 0.5


def test_each_key_has_a_limit_of_its_own(make_client: MakeClient) -> None:
    backend = FakeBackend(load_bundle("coop-small").spec)
    client = make_client(api_keys=(KEY, OTHER), rate_limit=SLOW, rate_burst=2, backend=backend)
    for key in (KEY, OTHER):
        headers = {"authorization": f"Bearer {key}"}
        answers = [client.get("/v1/models", headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
    headers = {"authorization": f"Bearer {KEY}"}
    for path, body in (("/v1/search", {"text": "a"}), ("/v1/embeddings", {"input": "a"}), ("/v2/rerank", {"query": "a"})):
        refused = client.post(path, json=body, headers=headers)
        assert refused.status_code == 429
        assert 3500 < int(refused.headers["retry-after"]) <= 3600
        assert "too many requests came with this API key" in refused.text
    problem = client.get("/v1/collections", headers=headers)
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["expected"] == f"at most {SLOW:g} per second, and 2 at once"
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/"):
        assert [client.get(path, headers=headers).status_code for _ in range(5)] == [200] * 5
    assert client.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    metrics = client.get("/metrics").text
    assert 'milvus_coop_failures_total{error="RateLimitedError"} 4.0' in metrics
    assert "milvus_coop_refused_total 0.0" in metrics  # these are requests that the queue refused


def test_without_keys_all_callers_share_a_limit(make_client: MakeClient) -> None:
    client = make_client(rate_limit=SLOW, backend=FakeBackend(load_bundle("coop-small").spec))
    assert [client.get("/v1/models").status_code for _ in range(2)] == [200, 429]


def test_options() -> None:
    assert (GatewayOptions(rate_limit=10).burst, GatewayOptions(rate_limit=10, rate_burst=5).burst) == (20, 5)
    for rate in (-1, float("nan"), float("inf")):
        with pytest.raises(InvalidArgumentError, match="rate_limit"):
            GatewayOptions(rate_limit=rate).check()
    with pytest.raises(InvalidArgumentError, match="rate_burst"):
        GatewayOptions(rate_burst=-1).check()
