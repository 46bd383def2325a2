"""Ingest and search with the embeddings of a server: our own service, which serves coop-small, and one that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pymilvus import MilvusClient

from milvus_coop import CoopIngest, CoopModel, CoopSearch
from milvus_coop.bundle import load_bundle
from milvus_coop.cli.main import cli
from milvus_coop.config import Settings
from milvus_coop.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    BundleMismatchError,
    InvalidArgumentError,
    MilvusCoopError,
)
from milvus_coop.models.open import open_models
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.service import Service
from milvus_coop.store import Fields
from milvus_coop.types import Array
from tests.gateway.rerank.kit import running as running_gateway
from tests.servers.reranker import Asked, Reply, Server, running

EXAMPLES = Path(__file__).parents[2] / "examples" / "images"
N = len([*EXAMPLES.rglob("*.jpg"), *EXAMPLES.rglob("*.png")])
QUERY = "a red apple"
MODEL = "coop-small"


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    with running_gateway(load_bundle("coop-small").folder) as service:
        yield f"nvclip+{service.url}?model={MODEL}&inputs=8"


@pytest.fixture(scope="module")
def database(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample images, encoded by the service and by the bundle itself, in the collections `remote` and `local`."""
    uri = tmp_path_factory.mktemp("embedder") / "lite.db"
    for name, embedder in (("remote", gateway), ("local", "")):
        with CoopIngest(name, uri=uri, embedder=embedder) as ingest:
            report = ingest.run([EXAMPLES])
            assert (report.failed, report.added) == (0, N)
    return uri


def vectors(database: Path, name: str, **settings: Any) -> dict[str, Array]:
    with CoopSearch(name, uri=database, **settings) as search:
        return {row.uri: row.embedding for page in search.collection.all_rows() for row in page}


def test_the_embeddings_are_those_of_the_model(database: Path, gateway: str) -> None:
    remote, local = vectors(database, "remote", embedder=gateway), vectors(database, "local")
    assert remote.keys() == local.keys()
    cosines = [float(remote[uri] @ local[uri]) for uri in local]
    assert min(cosines) > 0.99  # an image travels as a JPEG


def test_a_search(database: Path, gateway: str) -> None:
    with CoopSearch("remote", uri=database, embedder=gateway) as search, CoopSearch("local", uri=database) as local:
        found, expected = search.query(QUERY, limit=3), local.query(QUERY, limit=3, rerank=False)
        assert found[0].uri == expected[0].uri
        assert found[0].be_score == pytest.approx(expected[0].be_score, abs=0.05)
        assert not found.reranked
        assert "an embedder has no cross-encoder; try: --reranker" in str(found.reason)
        image = next(EXAMPLES.glob("*.jpg"))
        assert search.query(image=image, limit=1)[0].uri.endswith(image.name)
        assert [hits[0].uri for hits in search.query_many([QUERY] * 20, limit=1)] == [expected[0].uri] * 20


def test_both_servers(database: Path, gateway: str) -> None:
    with running() as reranker:
        settings = {"embedder": gateway, "reranker": reranker.address(), "reranker_roots": [EXAMPLES]}
        with CoopSearch("remote", uri=database, **settings) as search:  # type: ignore[arg-type]
            found = search.query(QUERY, k=5, limit=5)
    assert found.reranked
    assert all(hit.ce_score is not None for hit in found)


def test_an_ingest_is_resumed(database: Path, gateway: str) -> None:
    with CoopIngest("remote", uri=database, embedder=gateway) as ingest:
        report = ingest.run([EXAMPLES])
    assert (report.added, report.unchanged) == (0, N)


def test_texts(gateway: str, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("two dogs on a beach\na red apple on a table\n", encoding="utf-8")
    with CoopIngest("captions", kind="text", uri=tmp_path / "lite.db", embedder=gateway) as ingest:
        assert ingest.run([tmp_path / "captions.txt"]).added == 2
    with CoopSearch("captions", uri=tmp_path / "lite.db", embedder=gateway) as search:
        assert "apple" in (search.query(QUERY)[0].text or "")


def test_a_collection_belongs_to_its_model(database: Path, gateway: str) -> None:
    same_weights = gateway.replace(MODEL, load_bundle(MODEL).spec.model_name)
    for name, embedder in (("local", gateway), ("remote", ""), ("remote", same_weights)):
        with pytest.raises(BundleMismatchError):
            CoopSearch(name, uri=database, embedder=embedder)


def test_a_collection_of_another_program(database: Path, gateway: str, tmp_path: Path) -> None:
    """Only the length of the embeddings is compared."""
    uri = str(tmp_path / "lite.db")
    client = MilvusClient(uri)
    for name, dim in (("theirs", load_bundle(MODEL).spec.dim), ("shorter", 8)):
        client.create_collection(name, dimension=dim, id_type="string", max_length=64, metric_type="COSINE")
    stored = vectors(database, "local")
    client.insert("theirs", [{"id": str(i), "link": uri, "vector": row.tolist()} for i, (uri, row) in enumerate(stored.items())])
    client.close()
    fields = Fields(embedding="vector", uri="link")
    with CoopSearch("theirs", uri=uri, embedder=gateway, fields=fields) as search:
        assert "apple" in search.query(QUERY)[0].uri
    with pytest.raises(MilvusCoopError, match="8"):
        CoopSearch("shorter", uri=uri, embedder=gateway, fields=fields)


def test_the_command_line(gateway: str, tmp_path: Path) -> None:
    options = ["--uri", str(tmp_path / "lite.db"), "--embedder", gateway]
    done = CliRunner().invoke(cli, ["ingest", str(EXAMPLES), "--quiet", *options])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["query", QUERY, "--limit", "1", "--json", *options])
    assert done.exit_code == 0, done.output
    assert "apple" in json.loads(done.stdout.splitlines()[0])["uri"]
    done = CliRunner().invoke(cli, ["doctor", "--json", "--embedder", gateway])
    told = {check["name"]: check for check in map(json.loads, done.stdout.splitlines())}
    assert told["backend"]["detail"].startswith(f"{gateway.partition('?')[0]} encodes a text to")


def test_what_an_embedder_cannot_do(gateway: str, tmp_path: Path) -> None:
    models = open_models(Settings(embedder=gateway))
    with pytest.raises(BackendError, match="an embedder has no cross_encoder; expected: no embedder"):
        models.reranker.score({}, np.zeros((1, 1, 1), np.int8), np.zeros((1, 1), np.float16))
    with (
        pytest.raises(BackendError, match="an embedder has no cross_encoder"),
        CoopModel(settings=Settings(embedder=gateway)) as model,
    ):
        model.compare([QUERY], [next(EXAMPLES.glob("*.jpg"))])
    with pytest.raises(InvalidArgumentError, match="there is a backend and the embedder nvclip"):
        open_models(Settings(embedder=gateway), open_models(Settings()).backend)
    with pytest.raises(InvalidArgumentError, match="an embedder is set; expected: none, because the service runs a bundle"):
        Service(Settings(embedder=gateway, uri=str(tmp_path / "lite.db")), GatewayOptions(port=0))


def reply(rows: list[list[float]], **more: Any) -> Reply:
    return Reply(content=json.dumps({"data": [{"index": i, "embedding": row} for i, row in enumerate(rows)]}).encode(), **more)


def by_length(asked: Asked) -> Reply:
    return reply([[1.0, len(str(part)) / 100] for part in asked.body["input"]])


def address(server: Server, protocol: str = "openai") -> str:
    return server.address(protocol, "?model=m")


def test_a_server_that_changes_its_model() -> None:
    with running() as server:
        server.answer = by_length
        encoder = open_models(Settings(embedder=address(server))).encoder
        assert encoder.spec.dim == 2
        server.answer = lambda asked: reply([[1.0, 0.0, 0.0]])
        with pytest.raises(BackendError, match="returns embeddings of 3 dimensions; expected: 2, as before"):
            encoder.encode_texts(["one"])


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (lambda _: Reply(401), BackendError, "answers 401; expected: a key: MILVUS_COOP_EMBEDDER_KEY"),
        (lambda _: Reply(404), BackendError, r"answers 404; expected: the path of its embedding requests .* after \?model="),
        (lambda _: Reply(413), BackendError, r"fewer inputs in a request, such as \?inputs=4"),
        (lambda _: Reply(503), BackendUnavailableError, "answers 503: it is too busy"),
        (lambda _: Reply(hang_up=True), BackendUnavailableError, "cannot be reached"),
        (lambda _: Reply(drip=True), BackendTimeoutError, "did not answer within 1 s"),
        (lambda _: Reply(content=b"x" * 2**21), BackendUnavailableError, "more than 1,048,576 bytes"),
        (lambda _: Reply(content=b"nothing"), BackendError, "openai.*: the answer is not JSON"),
    ],
)
def test_a_server_that_fails(answer: Callable[[Asked], Reply], kind: type[MilvusCoopError], message: str) -> None:
    with running() as server:
        server.answer = answer
        with pytest.raises(kind, match=message):
            open_models(Settings(embedder=address(server), timeout_s=1.0))


def test_a_protocol_without_images() -> None:
    with running() as server:
        server.answer = by_length
        encoder = open_models(Settings(embedder=address(server))).encoder
        image = encoder.decode(next(EXAMPLES.glob("*.jpg")))
        with pytest.raises(BackendError, match=r"this protocol sends no images; expected: vllm\+, nvclip\+"):
            encoder.encode_images([image])


def test_what_is_sent() -> None:
    """Queries are remembered, items are not; the key travels, and the metadata of images does not."""
    with running() as server:
        server.answer = lambda asked: reply([[1.0, 0.5]] * len(asked.body.get("input", [0])))
        settings = Settings(embedder=address(server, "nim"), embedder_key="a-key", remembered_texts=10)
        encoder = open_models(settings).encoder
        server.asked.clear()
        for _ in range(3):
            encoder.encode_query_texts(["one", "two"])
            encoder.encode_texts(["three"])
        assert [asked.body["input_type"] for asked in server.asked] == ["query", "passage", "passage", "passage"]
        assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer a-key"}
        encoder.encode_images([encoder.decode(next(EXAMPLES.glob("*.jpg")))] * 70)
        sent = [asked.body["input"] for asked in server.asked[4:]]
        assert sorted(map(len, sent)) == [6, 32, 32]
        assert all(part.startswith("data:image/jpeg;base64,") for part in sent[0])
