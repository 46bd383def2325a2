"""The address of a rerank server, and what is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.search.remote.address import RerankServer, rerank_server_of

KEY = "a-secret-key-9f3c"


def server(address: str, **settings: Any) -> RerankServer:
    found = rerank_server_of(Settings(reranker=address, **settings))
    assert found is not None
    return found


def test_none() -> None:
    assert rerank_server_of(Settings()) is None


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("cohere+https://host", "https://host/v2/rerank"),
        ("cohere+https://host/", "https://host/v2/rerank"),
        ("jina+https://host:8443/other/rerank", "https://host:8443/other/rerank"),
        ("vllm+http://[::1]:8000", "http://[::1]:8000/v1/rerank"),
        ("sglang+http://gpu:30000", "http://gpu:30000/v1/rerank"),
        ("nim+http://gpu", "http://gpu/v1/ranking"),
        ("tei+https://host?documents=8", "https://host/rerank"),
    ],
)
def test_paths(address: str, url: str) -> None:
    assert server(address).server.url == url


def test_options() -> None:
    found = server("vllm+https://host?model=Qwen%2FQwen3-VL&scores=logit&documents=5")
    assert (found.server.model, found.scale, found.documents) == ("Qwen/Qwen3-VL", "logit", 5)
    assert (server("nim+https://host").scale, server("tei+https://host").scale) == ("logit", "probability")
    assert server("nim+https://host?scores=probability").scale == "probability"
    assert server("vllm+https://host?model=one", reranker_model="two").server.model == "two"
    assert found.server.label == "vllm+https://host"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://host/v1/rerank", r"reranker is 'https://host/v1/rerank'; expected: PROTOCOL\+https://host/path"),
        ("openai+https://host", "PROTOCOL one of vllm, sglang, nim, jina, cohere, tei"),
        ("cohere+ftp://host", "expected"),
        ("cohere+https://", "expected"),
        ("cohere+https://host:0", "expected"),
        ("cohere+https://host:99999", "expected"),
        ("cohere+https://[::1", "expected"),
        ("cohere+https://ho\nst", "expected"),
        ("cohere+https://host#part", "expected"),
        ("cohere+https://host?modle=x", "has the option 'modle'; expected: model or scores or documents"),
        ("cohere+https://host?scores=best", "scores of the reranker is 'best'; expected: probability or logit"),
        ("cohere+https://host?documents=0", "documents of the reranker is '0'; expected: a whole number from 1 to 512"),
        ("cohere+https://host?documents=1e3", "a whole number"),
    ],
)
def test_wrong_addresses(address: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        server(address)


@pytest.mark.parametrize(
    "address", [f"cohere+https://me:{KEY}@host", f"cohere+https://{KEY}@host/", f"cohere+https://host?api_key={KEY}"]
)
def test_a_key_in_an_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="MILVUS_COOP_RERANKER_KEY") as caught:
        server(address)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("host", ["rerank.example.com", "10.0.0.7:8000", "localhost.example.com"])
def test_a_key_does_not_travel_in_the_clear(host: str) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"would travel in the clear to .*; expected: vllm\+https://, or no MILVUS_COOP_R"
    ) as caught:
        server(f"vllm+http://{host}", reranker_key=KEY)
    assert KEY not in str(caught.value)
    assert server(f"vllm+http://{host}").server.key == ""
    assert server(f"vllm+https://{host}", reranker_key=KEY).server.key == KEY


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost", "[::1]:9"])
def test_a_key_on_loopback(host: str) -> None:
    assert server(f"vllm+http://{host}", reranker_key=f"{KEY}\n").server.key == KEY


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    assert KEY not in repr(server("vllm+https://host", reranker_key=KEY)) + repr(Settings(reranker_key=KEY))
    with pytest.raises(InvalidArgumentError, match="no header can hold") as caught:
        server("vllm+https://host", reranker_key=f"{KEY}\u00e9")
    assert KEY not in str(caught.value)
    with pytest.raises(InvalidArgumentError, match=r"reranker_ca_file is .*/none\.pem"):
        server("vllm+https://host", reranker_ca_file=str(tmp_path / "none.pem"))


def test_roots_are_a_list_of_names() -> None:
    assert Settings(reranker_roots=[Path("/photos"), "s3://b/p"]).reranker_roots == ("/photos", "s3://b/p")  # type: ignore[arg-type]
    assert Settings.from_env({"MILVUS_COOP_RERANKER_ROOTS": "/photos, s3://b/p"}).reranker_roots == ("/photos", "s3://b/p")
    for wrong in ("/photos", ["/photos", ""], [7]):
        with pytest.raises(InvalidArgumentError, match="reranker_roots"):
            Settings(reranker_roots=wrong)  # type: ignore[arg-type]


def test_a_root_is_an_existing_folder_or_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert server("vllm+https://host", reranker_roots=(str(tmp_path / "link"),)).folders == (tmp_path.resolve(),)
    assert [p.name for p in server("vllm+https://host", reranker_roots=("memory://b/p",)).prefixes] == ["memory://b/p"]
    for wrong in (str(tmp_path / "none"), "http://host/photos", "s3://", "file:///photos", "s3://b/../c"):
        with pytest.raises(InvalidArgumentError, match="root"):
            server("vllm+https://host", reranker_roots=(wrong,))
