"""Reranking with a server of somebody else: its scores count, it may fail in any way, and only what may be sent is sent."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, load_bundle
from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.cli.main import cli
from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.elsewhere.roots import shown_root
from milvus_coop.errors import BackendUnavailableError, InvalidArgumentError
from milvus_coop.ingest import Item
from milvus_coop.search import QueryOptions
from milvus_coop.search.queries import encode_queries
from milvus_coop.search.remote.images import CandidateImages, Unsent
from milvus_coop.servers.parts import EDGE
from milvus_coop.types import SearchResult
from tests.certificates import make_certificate
from tests.servers.milvus import free_ports
from tests.servers.reranker import Asked, Reply, Server, by_redness, documents, image_of, redness, results, running

SPEC = load_bundle("coop-small").spec
N = 20
TEXTS = ("a", "two words", "a text of more words", "a text that has many more words than the others have")
KEY = "a-key-of-the-reranker-77aa"
SECRET = "zebra-in-confidence"
QUERY = f"a {SECRET} dog"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos/` of images of different redness, and `lite.db` with the collections `images` and `captions`."""
    folder = tmp_path_factory.mktemp("remote")
    (folder / "photos").mkdir()
    for i in range(N):
        Image.new("RGB", (40, 30), (12 * i, 100, 250 - 12 * i)).save(folder / "photos" / f"{i:02}.png")
    with CoopIngest("images", uri=folder / "lite.db", models=FakeBackend(SPEC)) as ingest:
        assert ingest.run([folder / "photos"]).added == N
    with CoopIngest("captions", kind="text", uri=folder / "lite.db", models=FakeBackend(SPEC)) as ingest:
        assert ingest.ingest_items([Item(uri=f"t{i}", text=text) for i, text in enumerate(TEXTS)]).added == len(TEXTS)
    return folder


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@contextmanager
def searching(world: Path, server: Server | str, collection: str = "images", **settings: Any) -> Iterator[CoopSearch]:
    address = server if isinstance(server, str) else server.address()
    given = {"reranker_roots": [world / "photos"], "models": FakeBackend(SPEC), "uri": world / "lite.db", **settings}
    with CoopSearch(collection, reranker=address, **given) as search:
        yield search


def place(uri: str) -> int:
    """The number of an image of `world`, which rises with its redness."""
    return int(Path(uri).stem)


def assert_degraded(result: SearchResult, reason: str) -> None:
    """The order is that of the bi-encoder, and the result says why, without secrets."""
    assert not result.reranked
    assert [hit.be_rank for hit in result] == [hit.rank for hit in result]
    assert {hit.ce_score for hit in result} == {None}
    assert result.reason is not None
    assert reason in result.reason
    assert SECRET not in result.reason
    assert KEY not in result.reason


# --- the scores count


def test_the_server_decides_the_order(world: Path, server: Server) -> None:
    with searching(world, server) as search:
        result = search.query(QUERY, limit=N)
        assert (result.reranked, result.reranked_count, result.reason) == (True, N, None)
        assert [place(hit.uri) for hit in result] == list(range(N - 1, -1, -1))
        for hit in result:
            assert hit.ce_score == hit.score == pytest.approx(12 * place(hit.uri) / 255, abs=0.02)
        assert search.query(QUERY, limit=3, k=5).reranked_count == 5
        assert all(hit.ce_score >= 0.8 for hit in search.query(QUERY, limit=N, min_score=0.8) if hit.ce_score is not None)
        assert len(search.query(QUERY, limit=N, min_score=0.8)) == 3
    assert {asked.body["query"] for asked in server.asked} == {QUERY}
    assert {asked.path for asked in server.asked} == {"/v1/rerank"}
    assert all("authorization" not in asked.headers for asked in server.asked)


def test_the_sum_is_that_of_logit_and_cosine(world: Path, server: Server) -> None:
    with searching(world, server) as search:
        for hit in search.query(QUERY, limit=5, score="sum"):
            assert hit.ce_score is not None
            p = min(max(hit.ce_score, 1e-9), 1 - 1e-9)
            assert hit.score == pytest.approx(np.log(p / (1 - p)) + hit.be_score, abs=1e-3)


def test_many_queries_and_given_items(world: Path, server: Server) -> None:
    with searching(world, server) as search:
        found = search.query_many(["a dog", "a cat"], limit=N)
        assert [[place(hit.uri) for hit in result] for result in found] == [list(range(N - 1, -1, -1))] * 2
        assert {asked.body["query"] for asked in server.asked} == {"a dog", "a cat"}
        ids = [hit.id for hit in found[0]][5:9]
        assert [hit.id for hit in search.rerank("a dog", ids=reversed(ids))] == ids


def test_the_cross_encoder_of_the_bundle_is_not_needed(world: Path, server: Server) -> None:
    backend = FakeBackend(SPEC, failures={CROSS_ENCODER: BackendUnavailableError("the cross-encoder is used")})
    with searching(world, server, models=backend) as search:
        assert search.query(QUERY).reranked
        (candidates,) = search._retrieve(*_retrieval(search))
        assert {candidate.content for candidate in candidates} == {None}, "no token travels"
    assert CROSS_ENCODER not in backend.rows


def _retrieval(search: CoopSearch) -> Any:
    return encode_queries(search.encoder, ["a dog"], None, 10.0), QueryOptions(), NEVER


def test_texts_by_text_and_by_image(world: Path, server: Server) -> None:
    with searching(world, server, "captions") as search:
        red = world / "photos" / "19.png"
        queries: list[dict[str, Any]] = [{"text": QUERY}, {"image": red}, {"image": red.read_bytes()}]
        for query in queries:
            result = search.query(**query)
            assert result.reranked
            assert [hit.text for hit in result] == list(reversed(TEXTS))
        with red.open("rb") as file:
            assert search.query(image=file).reranked
    asked = [asked.body["query"] for asked in server.asked]
    assert asked[0] == QUERY
    assert [redness(image_of(query["content"][0]["image_url"]["url"])) > 0.85 for query in asked[1:]] == [True] * 3


def test_images_are_sent_small_and_without_their_metadata(world: Path, server: Server, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "the maker of the camera"
    Image.effect_noise((2400, 1200), 100).convert("RGB").save(tmp_path / "large.jpg", exif=exif)
    with CoopIngest("large", uri=world / "lite.db", models=FakeBackend(SPEC)) as ingest:
        assert ingest.run([tmp_path]).added == 1
    with searching(world, server, "large", reranker_roots=[tmp_path]) as search:
        assert search.query(QUERY).reranked
    (image,) = documents(server.asked[0])
    assert image.size == (EDGE, EDGE // 2)
    assert not image.getexif()


@pytest.mark.parametrize(("scale", "reason"), [("?scores=logit", None), ("", "a score outside of 0 to 1; expected: probabilities")])
def test_logits(world: Path, server: Server, scale: str, reason: str | None) -> None:
    server.answer = lambda asked: results([40 * redness(image) - 10 for image in documents(asked)])
    with searching(world, server.address(rest=scale)) as search:
        result = search.query(QUERY, limit=N)
    if reason is not None:
        assert_degraded(result, reason)
        return
    assert [place(hit.uri) for hit in result] == list(range(N - 1, -1, -1)), "also where float32 would make ties of 1.0"
    for hit in result:
        assert hit.ce_score == pytest.approx(1 / (1 + np.exp(10 - 40 * 12 * place(hit.uri) / 255)), abs=0.2)


def test_requests_are_small(world: Path, server: Server) -> None:
    with searching(world, server.address(rest="?documents=6&model=a/b")) as search:
        assert search.reranks("text")
        assert search.query(QUERY, limit=N).reranked
    assert sorted(len(asked.body["documents"]) for asked in server.asked) == [2, 6, 6, 6]
    assert {asked.body["model"] for asked in server.asked} == {"a/b"}


@pytest.mark.parametrize(
    ("protocol", "collection", "query", "reason"),
    [
        ("cohere", "images", {"text": QUERY}, "takes no images as items"),
        ("tei", "images", {"text": QUERY}, "takes no images as items"),
        ("cohere", "captions", {"image": Image.new("RGB", (9, 9))}, "takes no images as query"),
        ("nim", "captions", {"image": Image.new("RGB", (9, 9))}, "takes no images as query"),
    ],
)
def test_a_protocol_without_images(
    world: Path, server: Server, protocol: str, collection: str, query: dict[str, Any], reason: str
) -> None:
    with searching(world, server.address(protocol), collection) as search:
        assert_degraded(search.query(**query), reason)
        assert not search.reranks("image" if "image" in query else "text")  # so a service does not count it as degraded
    assert server.asked == []


# --- servers that do not do their work


def _wrong(content: bytes, **more: Any) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(content=content, **more)


def _status(status: int, **headers: str) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(status, json.dumps({"message": f"cannot score {asked.body['query']}"}).encode(), headers)


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        (_status(500), "answers 500", 1),
        (_status(404), "answers 404; expected: the path of its rerank requests", 1),
        (_status(422), "answers 422; expected: the protocol that the server speaks", 1),
        (_status(401), "answers 401; expected: a key: MILVUS_COOP_RERANKER_KEY", 1),
        (_status(413), "?documents=8", 1),
        (_status(302, Location="/elsewhere"), "answers 302, and redirects are not followed", 1),
        (_status(307, Location="/elsewhere"), "answers 307, and redirects are not followed", 1),
        (_status(429), "answers 429: it is too busy", 1),
        (_status(503, **{"Retry-After": "3600"}), "answers 503: it is too busy", 1),
        (_status(503, **{"Retry-After": "soon"}), "answers 503: it is too busy", 1),
        (_status(503, **{"Retry-After": "Mon, 01 Jan 99999999999 00:00:00 GMT"}), "answers 503: it is too busy", 1),
        (_status(429, **{"Retry-After": "0"}), "answers 429: it is too busy", 3),
        (_wrong(b"<html>"), "the answer is not JSON", 1),
        (_wrong(b'{"results": []}'), f"0 scores for {N} documents", 1),
        (_wrong(bytes(6 * 2**20)), "gives no answer: it has more than", 1),
        (_wrong(b'{"results"', cut=100), "gives no answer", 1),
        (_wrong(b"", hang_up=True), "cannot be reached", 3),
    ],
)
def test_a_server_that_fails(
    world: Path, server: Server, caplog: pytest.LogCaptureFixture, answer: Callable[[Asked], Reply], reason: str, requests: int
) -> None:
    server.answer = answer
    with caplog.at_level(logging.DEBUG), searching(world, server, reranker_key=KEY) as search:
        assert_degraded(search.query(QUERY), reason)
    assert [asked.path for asked in server.asked] == ["/v1/rerank"] * requests
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert KEY not in caplog.text
    assert SECRET not in caplog.text


LONG_AGO = "Thu, 01 Jan 2026 00:00:00 GMT"


@pytest.mark.parametrize(
    "first",
    [
        _wrong(b"", hang_up=True),
        _status(429, **{"Retry-After": "0"}),
        _status(503, **{"Retry-After": LONG_AGO}),
    ],
)
def test_a_request_is_sent_again(world: Path, server: Server, first: Callable[[Asked], Reply]) -> None:
    server.answer = lambda asked: first(asked) if len(server.asked) < 3 else by_redness(asked)
    with searching(world, server) as search:
        assert search.query(QUERY).reranked
    assert len(server.asked) == 3
    assert server.asked[0].body == server.asked[2].body


def test_nobody_listens(world: Path) -> None:
    with searching(world, f"vllm+http://127.0.0.1:{free_ports(1)[0]}") as search:
        assert_degraded(search.query(QUERY), "cannot be reached: [Errno")


def test_scores_that_came_before_a_failure_count(world: Path, server: Server) -> None:
    first = iter([True])
    server.answer = lambda asked: by_redness(asked) if next(first, False) else Reply(500)
    with searching(world, server.address(rest="?documents=19")) as search:
        result = search.query(QUERY, limit=N)
    assert (result.reranked, result.reranked_count) in [(False, 19), (False, 1)]
    assert "answers 500" in str(result.reason)
    assert [hit.ce_score is None for hit in result] == [False] * result.reranked_count + [True] * (N - result.reranked_count)


def test_a_deadline_cuts_at_what_was_scored(world: Path, server: Server) -> None:
    gate = threading.Event()

    def answer(asked: Asked) -> Reply:
        if len(asked.body["documents"]) < 16:
            gate.wait(60)
        return by_redness(asked)

    server.answer = answer
    with searching(world, server) as search:
        search.query(QUERY)  # opens what the first search opens
        result = search.query(QUERY, limit=N, deadline_ms=5000)
        gate.set()
    assert (result.reranked, result.reranked_count) == (False, 16)
    assert result.reason == f"the deadline came after 16 of {N} candidates"


def test_a_header_that_never_ends(world: Path, server: Server) -> None:
    server.answer = lambda asked: Reply(drip=True)
    with searching(world, server, timeout_s=3.0) as search:
        assert_degraded(search.query(QUERY), "did not answer within")
        assert_degraded(search.query(QUERY, deadline_ms=2500), "the deadline came after 0 of")


# --- what may be sent, is sent


def collection_of(world: Path, name: str, uris: list[str]) -> None:
    """A collection whose rows somebody else wrote: the image of each is red, whatever its uri says."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (255, 0, 0)).save(buffer, "PNG")
    with CoopIngest(name, uri=world / "lite.db", models=FakeBackend(SPEC)) as ingest:
        report = ingest.ingest_items([Item(uri=uri, image=buffer.getvalue()) for uri in uris])
        assert report.added == len(uris), report.failures


def test_only_images_below_a_root_are_sent(world: Path, server: Server, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        Image.new("RGB", (20, 20), (200, 0, 0)).save(folder / "image.png")
    (tmp_path / "root-2").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "root-2" / "image.png")
    (outside / "secret.txt").write_text(SECRET)
    (root / "link.png").symlink_to(outside / "image.png")
    (root / "folder").symlink_to(outside)
    (root / "text.jpg").write_text(SECRET)
    os.mkfifo(root / "pipe.png")
    sent = [f"{root}/image.png", f"file://{root}/image.png", f"{root}/../root/image.png", "image.png"]
    below_none = [
        f"{outside}/image.png",
        f"{root}/link.png",
        f"{root}/folder/image.png",
        f"{root}/../outside/image.png",
        f"{tmp_path}/root-2/image.png",
        f"file://{root}/%2e%2e/outside/image.png",
        "../outside/image.png",
        f"file://elsewhere{root}/image.png",
        "http://127.0.0.1:1/image.png",
        "s3://bucket/image.png",
        "memory://bucket/image.png",
        f"local://{root}/image.png",
        "/etc/passwd",
        "/proc/self/environ",
        f"{root}",
        f"{root}/pipe.png",
        f"{root}/none.png",
    ]
    unreadable = [f"{root}/text.jpg"]
    collection_of(world, "hostile", [*sent, *below_none, *unreadable])
    with searching(world, server, "hostile", reranker_roots=[root]) as search:
        result = search.query(QUERY, limit=50)
    total = len(sent) + len(below_none) + len(unreadable)
    assert sorted(hit.uri for hit in result if hit.ce_score is not None) == sorted(sent)
    assert result.reason == (
        f"{len(below_none)} of {total} candidates have no image below a root, so it is not sent to the reranker; "
        "try: --reranker-root FOLDER, or s3://bucket/prefix; "
        f"1 of {total} candidates have an image that cannot be read, or not in time"
    )
    assert len(documents(server.asked[0])) == len(sent)
    assert SECRET not in json.dumps(server.asked[0].body["documents"])


def test_uris_that_no_ingest_would_write(tmp_path: Path) -> None:
    images = CandidateImages([tmp_path], [shown_root("memory://bucket/photos")])
    odd = ["", "\0", f"{tmp_path}/a\0.png", f"{tmp_path}/{'a' * 5000}", "//host/a.png", "\\\\host\\a.png", "file://["]
    odd += ["data:image/png,x", "\ud800"]
    try:
        assert {found for found in images.open(odd, Deadline(60)) if isinstance(found, Unsent)} <= set(Unsent)
        assert not [found for found in images.open(odd, Deadline(60)) if isinstance(found, bytes)]
    finally:
        images.close()


def test_without_a_root_no_image_is_sent(world: Path, server: Server) -> None:
    with searching(world, server, reranker_roots=None) as search:
        assert_degraded(search.query(QUERY), f"{N} of {N} candidates have no image below a root")
    assert server.asked == []


def test_images_of_an_object_store(world: Path, server: Server) -> None:
    store = fsspec.filesystem("memory")
    try:
        for i in range(3):
            buffer = io.BytesIO()
            Image.new("RGB", (20, 20), (60 + 60 * i, 0, 0)).save(buffer, "PNG")
            store.pipe(f"/bucket/photos/{i}.png", buffer.getvalue())
            store.pipe(f"/bucket/other/{i}.png", buffer.getvalue())
        inside = [f"memory://bucket/photos/{i}.png" for i in range(3)]
        outside = ["memory://bucket/other/1.png", "memory://bucket/photos/../other/2.png", "memory://bucket/photos-2/1.png"]
        missing = ["memory://bucket/photos/none.png"]
        collection_of(world, "objects", [*inside, *outside, *missing])
        with searching(world, server, "objects", reranker_roots=["memory://bucket/photos"]) as search:
            result = search.query(QUERY, limit=9)
    finally:
        store.store.clear()
    assert [hit.uri for hit in result if hit.ce_score is not None] == inside[::-1]
    assert "3 of 7 candidates have no image below a root" in str(result.reason)
    assert "1 of 7 candidates have an image that cannot be read" in str(result.reason)


def test_a_key_goes_to_loopback_only(world: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the name `localhost` stands for another machine."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", server.server_port))]
    with searching(world, f"vllm+http://localhost:{server.server_port}", reranker_key=KEY) as search:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        assert_degraded(search.query(QUERY), "localhost has the address 192.0.2.1, which is not allowed")
    with pytest.raises(InvalidArgumentError, match="in the clear"):
        CoopSearch(reranker="vllm+http://192.0.2.1", reranker_key=KEY, uri=world / "lite.db")


def test_tls(world: Path, server: Server, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    address = server.address().replace("http://", "https://")
    with searching(world, address, reranker_key=KEY) as search:
        assert_degraded(search.query(QUERY), "CERTIFICATE_VERIFY_FAILED")
    assert server.asked == []
    with searching(world, address, reranker_key=KEY, reranker_ca_file=tmp_path / "server.crt") as search:
        assert search.query(QUERY).reranked
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}


# --- commands


def test_the_command(world: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str | Path) -> Result:
        where = ["--uri", world / "lite.db", "--threads", "1"]
        return CliRunner().invoke(cli, [*map(str, [*arguments, *where])])

    photos = ("--reranker-root", str(world / "photos"))
    done = run("query", QUERY, "--json", "--limit", "3", "--reranker", server.address(), *photos)
    assert done.exit_code == 0, done.output
    assert [place(json.loads(line)["uri"]) for line in done.stdout.splitlines()] == [19, 18, 17]
    monkeypatch.setenv("MILVUS_COOP_RERANKER", server.address(rest="?model=m"))
    done = run("query", QUERY, "--json")
    assert "20 of 20 candidates have no image below a root, so it is not sent to the reranker; try: --reranker-root" in done.stderr
    monkeypatch.setenv("MILVUS_COOP_RERANKER_ROOTS", str(world / "photos"))
    monkeypatch.setenv("MILVUS_COOP_RERANKER_MODEL", "another")
    assert run("query", QUERY, "--json").stderr == ""
    assert server.asked[-1].body["model"] == "another"
    server.answer = lambda asked: results([0.75, 0.25])
    line = next(line for line in run("doctor").output.splitlines() if " reranker " in line)
    assert line.startswith("ok")
    assert "with the model another scores two texts: 0.750, 0.250" in line
    server.answer = _status(500)
    done = run("doctor")
    assert done.exit_code == 1
    assert "broken  reranker" in done.output
    for command in ("query", "doctor"):
        done = run(command, *([QUERY] if command == "query" else []), "--reranker", "https://host")
        assert "reranker is 'https://host'" in done.output
        assert done.exit_code in (1, 2)
