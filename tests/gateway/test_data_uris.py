"""Data URIs: however they are written, they are an image or an error, and never a text."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.gateway.data_uris import image_in, is_data_uri
from tests.gateway.conftest import EXAMPLES

DOG = (EXAMPLES / "images" / "dog.jpg").read_bytes()
BASE64 = base64.b64encode(DOG).decode()
LINES = "\r\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76))

IMAGES = {
    "plain": f"data:image/jpeg;base64,{BASE64}",
    "capitals": f"DATA:IMAGE/JPEG;BASE64,{BASE64}",
    "another type": f"data:image/png;base64,{BASE64}",
    "parameters": f'data:image/jpeg;name="a dog.jpg";charset=utf-8;base64,{BASE64}',
    "no type": f"data:;base64,{BASE64}",
    "any type": f"data:application/octet-stream;base64,{BASE64}",
    "blanks": f" \n data: image/jpeg ; base64 , {BASE64} ",
    "byte order mark": f"\ufeffdata:image/jpeg;base64,{BASE64}",
    "lines": f"data:image/jpeg;base64,{LINES}",
    "percent-encoded lines": f"data:image/jpeg;base64,{quote(LINES, safe='')}",
    "no padding": f"data:image/jpeg;base64,{BASE64.rstrip('=')}",
    "percent-encoded bytes": f"data:image/jpeg,{quote(DOG)}",
    "percent-encoded head": f"data%3Aimage%2Fjpeg%3Bbase64,{BASE64}",
}
BROKEN = {
    "wrong base64": "data:image/png;base64,?",
    "base64 for URLs": "data:image/png;base64,_-_-",
    "nothing": "data:image/png;base64,",
    "no comma": "data:image/png;base64",
    "only a type": "DATA:image/png",
    "a wrong type": f"data:image;base64,{BASE64}",
    "text": "data:,hello",
    "text with a type": "data:text/plain,hello",
    "text in base64": "data:text/plain;charset=utf-8;base64,aGVsbG8=",
    "a drawing": "data:image/svg+xml;utf8,<svg/>",
    "a film": f"data:video/mp4;base64,{BASE64}",
    "not an image": "data:image/png;base64,aGVsbG8=",
    "no semicolon": f"data:image/jpegbase64,{BASE64}",
}


@pytest.mark.parametrize("uri", IMAGES.values(), ids=IMAGES)
def test_images(client: TestClient, uri: str) -> None:
    assert is_data_uri(uri)
    assert image_in(uri) == DOG
    entry = client.post("/v1/embeddings", json={"input": uri}).json()["data"][0]
    assert "image_tokens" in entry
    for name in ("image", "text"):
        answer = client.post("/v1/search", json={name: uri, "limit": 1}).json()
        assert answer["query"] == {"kind": "image", "text": None}
        assert answer["hits"][0]["uri"].endswith("/dog.jpg")
    form = client.post("/v1/search", files={"text": (None, uri)}).json()
    assert form["query"]["kind"] == "image"


@pytest.mark.parametrize("uri", BROKEN.values(), ids=BROKEN)
def test_what_holds_no_image(client: TestClient, uri: str) -> None:
    assert is_data_uri(uri)
    answer = client.post("/v1/embeddings", json={"input": ["a dog", uri]})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("input[1]: ")
    assert client.post("/v1/search", json={"text": uri}).status_code == 400
    assert client.post("/v1/search", json={"image": uri}).status_code in (400, 422)


@pytest.mark.parametrize(
    "text", ["data: a chart with bars", "Data: cats, dogs", "data", "a data:image/png URI", "metadata:a/b", "database: x;y"]
)
def test_sentences_are_texts(client: TestClient, text: str) -> None:
    assert not is_data_uri(text)
    assert client.post("/v1/search", json={"text": text}).json()["query"]["kind"] == "text"


def test_queries_to_rerank(client: TestClient) -> None:
    for path, name in (("/v2/rerank", "documents"), ("/v1/rerank", "documents"), ("/rerank", "documents"), ("/rerank", "texts")):
        refused = client.post(path, json={"query": IMAGES["capitals"], name: ["a dog"]})
        assert refused.status_code in (400, 422)
        assert "image_tokens" in refused.text


@given(
    head=st.sampled_from(["data:", "DATA:", " data:", "data:image/png", "data:;base64"]),
    rest=st.text(st.sampled_from(list("iImage/pPng;,=+%3A2cBAS64 \n\ufeff\x00\u00e9")), max_size=40),
)
@settings(max_examples=500, deadline=None)
def test_any_data_uri_is_bytes_or_an_error(head: str, rest: str) -> None:
    uri = head + rest
    if is_data_uri(uri):
        with suppress(InvalidArgumentError):
            assert image_in(uri)


def test_base64_alone(client: TestClient) -> None:
    def search(image: Any) -> int:
        return client.post("/v1/search", json={"image": image}).status_code

    assert [search(BASE64), search(LINES), search("!"), search(""), search(1), search("é")] == [200, 200, 422, 400, 422, 422]
