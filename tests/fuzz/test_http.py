"""Any request to any route gets a result or an error of this service: no status 5xx, and no traceback in the log.

`test_openapi.py` makes requests from the document. Here they are made by hand, to go where no document leads: nested and broken
JSON, odd numbers and names, data URIs in every place, forms with many parts or with half of one, and headers that do not fit. For
the bounds of time and memory see `tests.fuzz.runs`.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from milvus_coop import CoopIngest, FakeBackend, load_bundle
from tests.fuzz.images import damaged_files
from tests.fuzz.runs import holds, lengths
from tests.gateway.conftest import client_of

SERVER_ERRORS = (500, 502, 503, 504)
JSON = "application/json"

RERANK = [
    below + path for below in ("", "/collections/images", "/collections/none") for path in ("/v2/rerank", "/v1/rerank", "/rerank")
]
POSTS = ["/v1/search", "/v1/embeddings", *RERANK]


def _image() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
        return file.getvalue()


IMAGE = _image()
TOKENS = base64.b64encode(bytes(64)).decode()
uris = st.tuples(
    st.sampled_from(
        ["data:image/png;base64,", "DATA:image/PNG;Base64,", " data:;base64,", "data:image/jpeg,", "data%3Ax/y;base64,"]
    ),
    st.one_of(st.just(IMAGE), damaged_files(), st.binary(max_size=20)).map(lambda content: base64.b64encode(content).decode()),
).map("".join)
texts = st.one_of(
    st.text(max_size=30),
    uris,
    st.sampled_from(
        ["", " ", "a dog", "\x00", "data:image/png;base64,AA", "DATA:,", TOKENS, "a" * 20_001, "\u202e", "null", "*", "$meta"]
    ),
)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, 10, 16_384, 16_385, 1e308, -0.0]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
filters = st.sampled_from(
    ["", "year > 1", "year >", "'", "(" * 3000, "year in [", "a" * 65_536, "text_match(uri,'a')", "year == {x}", "//", "\x00"]
)
NAMES: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "image": st.one_of(
        texts, st.just(base64.b64encode(IMAGE).decode()), st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode())
    ),
    "filter": st.one_of(filters, texts),
    "output_fields": st.one_of(st.lists(texts, max_size=3), values),
    "limit": numbers,
    "offset": numbers,
    "k": numbers,
    "min_score": numbers,
    "deadline_ms": st.floats(min_value=1),
    "rerank": values,
    "score": texts,
    "collection": st.one_of(st.sampled_from(["images", "captions", "none", ""]), texts),
    "query": texts,
    "documents": st.one_of(st.lists(st.one_of(texts, st.none(), st.builds(lambda t: {"text": t}, texts)), max_size=5), values),
    "texts": st.lists(st.one_of(texts, st.none()), max_size=5),
    "top_n": numbers,
    "model": texts,
    "return_documents": values,
    "raw_scores": st.booleans(),
    "input": st.one_of(texts, st.lists(st.one_of(texts, numbers), max_size=4), values),
    "dimensions": numbers,
    "encoding_format": st.one_of(st.sampled_from(["float", "base64"]), texts),
}
USUAL: dict[str, dict[str, Any]] = {
    "/v1/search": {"text": "a dog"},
    "/v1/embeddings": {"input": "a dog"},
}
"""What makes a request valid, so that some of them reach Milvus and the models."""


def _bodies(path: str) -> st.SearchStrategy[bytes]:
    usual = USUAL.get(path) or {"query": "a dog", "documents": [TOKENS], "texts": [TOKENS]}
    fields = st.fixed_dictionaries({}, optional={name: st.one_of(value, values) for name, value in NAMES.items()})
    few = st.lists(st.sampled_from(sorted(NAMES)), max_size=3, unique=True)
    near = st.tuples(fields, few).map(lambda both: {**usual, **{name: both[0][name] for name in both[1] if name in both[0]}})
    whole = st.one_of(near, near, fields, values).map(lambda value: json.dumps(value).encode(errors="replace"))
    broken = st.tuples(whole, st.integers(0, 200), st.binary(max_size=3)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + len(t[2]) :]
    )
    return st.one_of(
        whole, whole, broken, st.binary(max_size=50), st.sampled_from([b"", b"[" * 100_000, b'{"a":' * 5000, b"null", b"1e999"])
    )


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with a small bundle in memory, and collections of its own, which may change."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "photos").mkdir()
    backend = FakeBackend(load_bundle("coop-small").spec)
    (folder / "photos" / "a.png").write_bytes(IMAGE)
    (folder / "list.jsonl").write_text('{"path": "photos/a.png", "year": 2019}\n')
    (folder / "texts.txt").write_text("a dog\na cat\n")
    with CoopIngest("images", uri=folder / "lite.db", models=backend) as ingest:
        ingest.run([folder / "list.jsonl"])
    with CoopIngest("captions", kind="text", uri=folder / "lite.db", models=backend) as ingest:
        ingest.run([folder / "texts.txt"])
    with client_of(folder, backend=backend, uploads=str(folder / "up"), max_body_mb=8, max_collections=2, raising=False) as client:
        yield client


class _Log(logging.Handler):
    """Collects what the service logs as a failure."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@pytest.fixture
def errors() -> Iterator[list[str]]:
    log = _Log()
    logging.getLogger().addHandler(log)
    yield log.found
    logging.getLogger().removeHandler(log)


def check(answer: Any, errors: list[str]) -> None:
    assert not errors
    late = answer.status_code == 504 and "the deadline came" in answer.text  # the client asked for too little time
    assert late or answer.status_code not in SERVER_ERRORS, answer.text
    if answer.status_code >= 400 and answer.content:
        assert isinstance(answer.json(), dict)
        assert len(answer.content) < 4000


KINDS = st.sampled_from(
    [JSON] * 12
    + ["application/json; charset=x", "APPLICATION/JSON", "text/plain", "multipart/form-data", "multipart/form-data; boundary=b"]
    + ["application/x-www-form-urlencoded", "application/problem+json", "", ";", "application/json, text/plain", "é"]
)


@pytest.mark.parametrize("path", POSTS)
@lengths(short=30, long=600)
@pytest.mark.filterwarnings("ignore")  # Pillow's reader of TIFF tags warns
def test_json(fuzzed: TestClient, errors: list[str], path: str, inputs: int) -> None:
    def rule(request: tuple[bytes, str]) -> None:
        body, kind = request
        check(fuzzed.post(path, content=body, headers={b"content-type": kind.encode()}), errors)

    holds(rule, st.tuples(_bodies(path), KINDS), inputs)


parts = st.tuples(
    st.sampled_from(["files", "files", "metadata", "collection", "image", "text", "limit", "output_fields", "filter", "", "x"]),
    st.sampled_from(["", '; filename="a.png"', '; filename="../../\u202eb"', '; filename=""', "; filename*=UTF-8''%ff"]),
    st.one_of(
        st.sampled_from(
            [
                IMAGE,
                IMAGE,
                IMAGE[:40],
                b"",
                b"{}",
                b"[{}]",
                b'{"a": 1e400}',
                b'[{"a": [',
                b"images",
                b"captions",
                b"../x",
                b"3",
                b"a dog",
            ]
        ),
        st.binary(max_size=30),
        damaged_files(),
        uris.map(str.encode),
        values.map(lambda value: json.dumps(value).encode(errors="replace")),
    ),
)


# Starlette closes the files of a form that breaks off when they are collected, and not before.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ["/v1/items", "/v1/search"])
@lengths(short=60, long=1200)
def test_forms(fuzzed: TestClient, errors: list[str], path: str, inputs: int) -> None:
    def rule(form: tuple[list[tuple[str, str, bytes]], bytes, int]) -> None:
        some, end, cut = form
        heads = (f'--b\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() for name, more, _ in some)
        body = b"".join(head + part[2] + b"\r\n" for head, part in zip(heads, some, strict=True)) + end
        check(fuzzed.post(path, content=body[: cut or None], headers={"content-type": "multipart/form-data; boundary=b"}), errors)

    ends = st.sampled_from([b"--b--\r\n", b"--b--\r\n", b"--b--", b"", b"--b", b"\x00"])
    cuts = st.just(0) | st.just(0) | st.integers(1, 300) | st.integers(-60, -1)
    holds(rule, st.tuples(st.lists(parts, max_size=6), ends, cuts), inputs)
    gc.collect()


HEADERS = ["origin", "x-request-id", "if-none-match", "content-type", "authorization", "traceparent", "content-length"]
SEGMENTS = ["v1", "v2", "items", "thumbnail", "models", "rerank", "collections", "..", "%00", "%2e%2e"]


@lengths(short=80, long=2000)
def test_addresses_and_headers(fuzzed: TestClient, errors: list[str], inputs: int) -> None:
    def rule(request: tuple[str, str, dict[str, str], dict[str, str]]) -> None:
        method, path, query, headers = request
        address = f"http://localhost/{quote(path)}" + (f"?{urlencode(query)}" if query else "")
        check(fuzzed.request(method, address, headers=headers), errors)

    paths = st.one_of(
        st.lists(st.sampled_from(SEGMENTS) | texts, max_size=4).map("/".join),
        texts.map(lambda text: f"v1/items/{text}/thumbnail"),
        texts.map(lambda text: f"v1/models/{text}"),
    )
    printed = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
    requests = st.tuples(
        st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "X"]),
        paths,
        st.dictionaries(st.sampled_from(["collection", "size", "model", "x"]), texts, max_size=3),
        st.dictionaries(st.sampled_from(HEADERS), printed, max_size=3),
    )
    holds(rule, requests, inputs)
