"""`CoopSearch.ranker` and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, load_bundle
from milvus_coop.errors import ImageError, InvalidArgumentError, StoreError
from milvus_coop.store.ranker import RerankService, build_ranker
from tests.gateway.rerank.kit import World
from tests.servers.milvus import MilvusServer
from tests.toy_bundle import draw, make_bundle

URL = "http://gateway:8000"
CALL = RerankService(URL, "toy@12345678")


@pytest.fixture
def images(world: World) -> Iterator[CoopSearch]:
    with world.search() as search:
        yield search


def params(version: str, call: RerankService = CALL, collection: str = "") -> dict[str, Any]:
    ranker = build_ranker(call, "a dog", "image_tokens", version=version, collection=collection)
    assert ranker.input_field_names == ["image_tokens"]
    assert ranker.type.name == "RERANK"
    found: dict[str, Any] = dict(ranker.params)
    assert found.pop("reranker") == "model"
    assert found.pop("queries") == ["a dog"]
    return found


def test_milvus_lite() -> None:
    expected = {"provider": "cohere", "model_name": "toy@12345678", "base_url": f"{URL}/v2", "api_key": "none"}
    assert params("milvus_lite-3.2.2") == expected
    assert params("milvus_lite-3.0", RerankService(URL + "/", "m", "secret"))["api_key"] == "secret"
    assert params("milvus_lite-3.2.2", collection="my images")["base_url"] == f"{URL}/collections/my%20images/v2"
    below = RerankService("https://host/prefix", "m")
    assert params("milvus_lite-3.2.2", below)["base_url"] == "https://host/prefix/v2"


@pytest.mark.parametrize("end", ["/", "/v2", "/v2/", "/rerank", "/v2/rerank", "/v1/rerank//"])
def test_the_end_of_a_rerank_address_is_not_repeated(end: str) -> None:
    assert params("milvus_lite-3.2.2", RerankService(URL + end, "m"))["base_url"] == f"{URL}/v2"
    assert params("milvus_lite-3.2.2", RerankService(f"{URL}/prefix{end}", "m"))["base_url"] == f"{URL}/prefix/v2"
    assert params("2.6.0", RerankService(URL + end, "m"))["endpoint"] == f"{URL}?model=m"


@pytest.mark.parametrize(
    "version", ["2.6.0", "v2.6.14", "3.0.2", "Zilliz Cloud Vector Database(Compatible with Milvus 2.6)", "master"]
)
def test_servers(version: str) -> None:
    endpoint = f"{URL}?model=toy@12345678"
    assert params(version) == {"provider": "vllm", "endpoint": endpoint, "max_client_batch_size": 1000}
    found = params(version, RerankService(URL, "toy@12345678", provider="tei", credential="key1", batch_size=32), "my images")
    assert found == {
        "provider": "tei",
        "endpoint": f"{endpoint}&collection=my+images",
        "max_client_batch_size": 32,
        "credential": "key1",
    }
    found = params(version, RerankService(URL, "m", provider="cohere"))
    assert found == {"provider": "cohere", "model_name": "m", "max_client_batch_size": 1000}


@pytest.mark.parametrize(
    ("version", "call", "match"),
    [
        (
            "milvus_lite-3.2.2",
            RerankService(URL, "m", provider="vllm"),
            "Milvus Lite cannot call a rerank service by the protocol vllm",
        ),
        ("milvus_lite-3.2.2", RerankService(URL, "m", credential="c"), "no credentials by name"),
        ("2.6.0", RerankService(URL, "m", api_key="k"), "a Milvus server takes no key with a search; expected: credential="),
        ("2.6.0", RerankService(URL + "/below", "m"), "would drop its path"),
    ],
)
def test_calls_that_cannot_be(version: str, call: RerankService, match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match.replace("?", r"\?")):
        build_ranker(call, "a dog", "image_tokens", version=version)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"endpoint": "gateway:8000"}, "the endpoint is 'gateway:8000'"),
        ({"endpoint": "http://"}, "the endpoint is 'http://'"),
        ({"endpoint": "http://["}, "the endpoint is"),
        ({"endpoint": URL + "?a=b"}, "the endpoint is"),
        ({"endpoint": None}, "endpoint is None; expected: a string"),
        ({"provider": "jina"}, "provider is 'jina'; expected: cohere or vllm or tei"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"api_key": None}, "api_key is None"),
    ],
)
def test_services_that_cannot_be(values: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        RerankService(**{"endpoint": URL, "model": "m", **values})


@pytest.mark.parametrize("version", ["2.3.5", "v2.5.27", "milvus_lite-2.5.1"])
def test_versions_without_rankers(version: str) -> None:
    with pytest.raises(StoreError, match=r"has no model rankers and would ignore this one.*CoopSearch\.query\(\)"):
        build_ranker(CALL, "a dog", "image_tokens", version=version)


def test_queries_that_cannot_be(images: CoopSearch, world: World) -> None:
    for arguments in ({}, {"text": "a", "image": b""}):
        with pytest.raises(InvalidArgumentError, match="neither a text nor an image, or both"):
            images.ranker(endpoint=URL, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="both images"):
        images.ranker(image=world.folder / "01.png", endpoint=URL)
    with pytest.raises(InvalidArgumentError, match="the text is empty"):
        images.ranker(" ", endpoint=URL)
    with world.search("captions") as captions:
        with pytest.raises(InvalidArgumentError, match="both texts"):
            captions.ranker("a dog", endpoint=URL)
        with pytest.raises(ImageError):
            captions.ranker(image=b"no picture", endpoint=URL)


def test_rank_by_sum_cannot_be_asked_of_milvus(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", score="sum")
    draw(tmp_path / "photos" / "a.png", 1)
    with CoopIngest("images", uri=tmp_path / "lite.db", bundle=tmp_path / "bundle") as ingest:
        ingest.run([tmp_path / "photos"])
    with CoopSearch("images", uri=tmp_path / "lite.db", bundle=tmp_path / "bundle") as search:
        with pytest.raises(InvalidArgumentError, match='sum of logit and cosine; expected: score="ce"'):
            search.ranker("a dog", endpoint=URL)
        assert search.ranker("a dog", endpoint=URL, score="ce").params["queries"] == ["a dog"]


def test_bundles_that_keep_no_tokens(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", "nowhere")
    draw(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "captions.txt").write_text("a dog", encoding="utf-8")
    sources: tuple[tuple[Any, Path], ...] = (("image", tmp_path / "photos"), ("text", tmp_path / "captions.txt"))
    for kind, source in sources:
        with CoopIngest(f"{kind}s", kind=kind, uri=tmp_path / "lite.db", bundle=tmp_path / "bundle") as ingest:
            ingest.run([source])
    picture = tmp_path / "photos" / "a.png"
    asked: tuple[tuple[str, dict[str, Any]], ...] = (("images", {"text": "a dog"}), ("texts", {"image": picture}))
    for name, query in asked:
        search = CoopSearch(name, uri=tmp_path / "lite.db", bundle=tmp_path / "bundle")
        with search, pytest.raises(InvalidArgumentError, match="keeps no image tokens"):
            search.ranker(endpoint=URL, **query)


@pytest.mark.server
def test_an_old_server_is_refused(milvus_server: MilvusServer, tmp_path: Path) -> None:
    """Milvus 2.3.5: it would search, and leave the order as it is."""
    draw(tmp_path / "a.png", 1)
    backend = FakeBackend(load_bundle("coop-small").spec)
    with CoopIngest("ranker_old_server", uri=milvus_server.uri, models=backend) as ingest:
        ingest.run([tmp_path / "a.png"])
    with CoopSearch("ranker_old_server", uri=milvus_server.uri, models=backend) as search:
        try:
            with pytest.raises(StoreError, match=r"the Milvus server is version v2\.3\.5\S*, which has no model rankers"):
                search.ranker("a dog", endpoint=URL)
        finally:
            with milvus_server.connect() as store:
                store.drop("ranker_old_server")


def test_a_server_cannot_tell_cohere_whose_rows_they_are() -> None:
    with pytest.raises(InvalidArgumentError, match="does not name the collection"):
        build_ranker(RerankService(URL, "m", provider="cohere"), "a dog", "image_tokens", version="2.6.0", collection="images")
