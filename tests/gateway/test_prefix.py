"""A service below a path prefix that a proxy passes on."""

from __future__ import annotations

import re

import pytest

from milvus_coop import FakeBackend, load_bundle
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.gateway.options import GatewayOptions
from tests.gateway.conftest import KEY, MakeClient


@pytest.mark.parametrize("prefix", ["/images", "/team/images", "/v1"])
def test_everything_is_there_with_and_without_the_prefix(make_client: MakeClient, prefix: str) -> None:
    client = make_client(root_path=prefix, api_keys=(KEY,), backend=FakeBackend(load_bundle("coop-small").spec))
    key = {"authorization": f"Bearer {KEY}"}
    page = client.get(f"{prefix}/")
    assert page.status_code == 200
    for link in re.findall(r'(?:href|src)="([^"]+)"', page.text):
        assert client.get(str(page.url.join(link))).status_code == 200, link
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert client.get(path).status_code == client.get(prefix + path).status_code == 200
    assert client.post(f"{prefix}/v1/search", json={"text": "a dog"}).status_code == 401
    found = client.post(f"{prefix}/v1/search", json={"text": "a dog"}, headers=key)
    assert found.status_code == 200
    assert client.get(prefix + found.json()["hits"][0]["thumbnail"], headers=key).status_code == 200
    assert client.post(f"{prefix}/v2/rerank", json={"query": 1}, headers=key).status_code == 400
    assert client.get("/openapi.json").json()["servers"] == [{"url": prefix}]
    assert client.get(f"{prefix}s/v1/collections", headers=key).status_code == 404


def test_the_page_is_found_without_the_slash(make_client: MakeClient) -> None:
    client = make_client(root_path="/team/images")
    moved = client.get("/team/images", follow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (307, "images/")
    assert client.get("/team/images").status_code == 200


def test_no_prefix_is_the_default(make_client: MakeClient) -> None:
    client = make_client()
    assert "servers" not in client.get("/openapi.json").json()
    assert client.get("/images/v1/collections").status_code == 404


@pytest.mark.parametrize("prefix", ["images", "/images/", "/", "/a//b", "/..", "/a/../b", "/a b", "/a?b", "https://x/y"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidArgumentError, match="root_path"):
        GatewayOptions(root_path=prefix).check()
