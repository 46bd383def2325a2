"""What a store makes of its arguments before it talks to Milvus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.store import CollectionOptions, Store
from milvus_coop.store.address import parse_address
from milvus_coop.store.layout import bundle_layout
from milvus_coop.store.rows import literal, records, requests
from milvus_coop.store.schema import VARCHAR_BYTES, content_bytes, search_params
from tests.contract.store_samples import DIM, SPEC, make_rows


@pytest.mark.parametrize(
    ("uri", "endpoint", "database", "token"),
    [
        ("http://milvus:19530", "http://milvus:19530", "", ""),
        ("http://milvus", "http://milvus:19530", "", ""),
        ("https://milvus.example.org", "https://milvus.example.org:443", "", ""),
        ("HTTPS://milvus:1/", "https://milvus:1", "", ""),
        ("http://[::1]:19530/pictures", "http://[::1]:19530", "pictures", ""),
        ("https://ann:p%40ss@milvus:19530/db/x", "https://milvus:19530", "db", "ann:p@ss"),
    ],
)
def test_servers(uri: str, endpoint: str, database: str, token: str) -> None:
    address = parse_address(uri)
    assert (address.endpoint, address.database, address.token, address.folder) == (endpoint, database, token, None)
    assert "p@ss" not in repr(address)
    assert "p%40ss" not in repr(address)


@pytest.mark.parametrize("uri", ["./a.db", "a", "/x/y.db", "~/z", Path("b.db"), "C:/a.db", "ä b"])
def test_paths(uri: str | Path) -> None:
    address = parse_address(uri)
    assert address.folder is not None
    assert address.folder.is_absolute()
    assert "~" not in str(address.folder)
    assert not address.endpoint


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "  ",
        "ftp://x",
        "tcp://ann:secretpw@x:1",
        "unix:/tmp/s",
        "localhost:19530",
        "milvus:19530",
        "http://",
        "http://x:port",
        "a\0b",
    ],
)
def test_neither(uri: str) -> None:
    with pytest.raises(InvalidArgumentError, match="http://host:19530") as caught:
        Store(uri)
    assert "secretpw" not in str(caught.value)


def test_credentials() -> None:
    assert parse_address("http://x", user="ann", password="pw").token == "ann:pw"
    assert parse_address("http://x", token="key", user="ann", password="pw").token == "key"
    assert parse_address("http://bob:1@x", token="key").token == "key"


def test_other_parameters(tmp_path: Path) -> None:
    for timeout_s in (0, -1, float("nan")):
        with pytest.raises(InvalidArgumentError, match="timeout_s"):
            Store(tmp_path / "a.db", timeout_s=timeout_s)
    pem = tmp_path / "ca.pem"
    with pytest.raises(InvalidArgumentError, match=r"ca_file is .*ca\.pem, which cannot be read: No such file"):
        Store("https://localhost:1", ca_file=pem)
    pem.write_text("a letter to the authorities", encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match=r"ca_file is .*ca\.pem, which holds no certificate; expected: a PEM file"):
        Store("https://localhost:1", ca_file=pem)
    with pytest.raises(InvalidArgumentError, match="https://"):
        Store("http://localhost:1", ca_file=pem)


def test_from_settings(tmp_path: Path) -> None:
    with Store.from_settings(Settings(uri=str(tmp_path / "a.db"), timeout_s=3)) as store:
        assert repr(store) == f"<Store {tmp_path / 'a.db'}>"


LAYOUT = bundle_layout(SPEC, "image", CollectionOptions())


def test_requests_keep_the_order_and_the_limit() -> None:
    sized = records(make_rows(100), LAYOUT)
    sizes = [n for _, n in sized]
    limit = 7 * max(sizes)
    cut = list(requests(sized, limit))
    assert [r for run, _ in cut for r in run] == [r for r, _ in sized]
    assert sum(n for _, n in cut) == sum(sizes)
    assert all(n <= limit and 7 <= len(run) <= 9 for run, n in cut[:-1])
    assert [len(run) for run, _ in requests(sized, 1)] == [1] * 100
    assert len(list(requests(sized))) == 1
    assert list(requests([])) == []


def test_sizes_are_at_least_what_is_sent() -> None:
    (row,) = make_rows(1)
    row = replace(row, uri="é" * 1000, metadata={"a": "漢" * 100, "b": [1.5] * 10})
    ((record, size),) = records([row], LAYOUT)
    text_bytes = sum(len(v.encode()) for v in record.values() if isinstance(v, str))
    assert size >= text_bytes + 4 * DIM + 10 * 4


def test_literal_leaves_no_way_out() -> None:
    assert literal('a"b') == r'"a\"b"'
    assert literal('\\" or true or "') == r'"\\\" or true or \""'


def test_how_hard_an_index_searches() -> None:
    assert search_params("HNSW", "COSINE", 10) == {"metric_type": "COSINE", "params": {"ef": 640}}
    assert search_params("HNSW", "COSINE", 100) == {"metric_type": "COSINE", "params": {"ef": 1000}}
    assert search_params("HNSW", "COSINE", 16_384) == {"metric_type": "COSINE", "params": {"ef": 32_768}}
    assert search_params("AUTOINDEX", "IP", 10) == {"metric_type": "IP", "params": {}}


def test_tokens_must_fit_a_field() -> None:
    assert content_bytes(SPEC, "image") == 44  # 32 bytes in base64
    assert content_bytes(SPEC, "text") == VARCHAR_BYTES
    with pytest.raises(InvalidArgumentError, match="at most 65535"):
        content_bytes(replace(SPEC, tokens=replace(SPEC.tokens, count=100, dim=768)), "image")
