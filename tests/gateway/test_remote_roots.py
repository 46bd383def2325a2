"""Thumbnails of images in an object store: below a root, within limits, and nothing else."""

from __future__ import annotations

import io
import json
import logging
import socket
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

from milvus_coop import CoopIngest
from milvus_coop.cli.main import cli
from milvus_coop.config import Settings
from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.roots import below_root, shown_root
from milvus_coop.elsewhere.thumbnails import Original, Thumbnails
from milvus_coop.errors import InvalidArgumentError, SourceError
from milvus_coop.serving.gateway.logs import LOGGER
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.store import Store
from tests.gateway.conftest import EXAMPLES, MakeClient
from tests.servers import s3

DOG, CAT = ((EXAMPLES / "images" / name).read_bytes() for name in ("dog.jpg", "cat.jpg"))


@pytest.fixture
def memory() -> Iterator[str]:
    """The address of a prefix in the memory of this process."""
    yield "memory://bucket/photos"
    fsspec.filesystem("memory").store.clear()


def ids(database: Path) -> dict[str, str]:
    """The ids of the items of a collection by uri."""
    with Store(database) as store:
        return {stamp.uri: key for key, stamp in store.open("images").all_stamps()}


def status(client: TestClient, key: str) -> int:
    return client.get(f"/v1/items/{key}/thumbnail").status_code


def found(thumbnails: Thumbnails, uri: str) -> Original | None:
    return thumbnails.remote_original(thumbnails.elsewhere(uri))


def test_images_below_a_root_are_shown_and_no_others(s3_server: str, make_client: MakeClient, tmp_path: Path) -> None:
    bucket, other = f"s3://{s3.bucket('shown')}", f"s3://{s3.bucket('hidden')}"
    local = tmp_path / "local"
    local.mkdir()
    (local / "dog.jpg").write_bytes(DOG)
    for place in (
        f"{bucket}/photos/dog.jpg",
        f"{bucket}/photos/a/#1 é%2e.jpg",
        f"{bucket}/photos-2/dog.jpg",
        f"{other}/photos/dog.jpg",
    ):
        s3.put(place, DOG)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("in.jpg")
        member.size = len(DOG)
        tar.addfile(member, io.BytesIO(DOG))
    s3.put(f"{bucket}/photos/s.tar", buffer.getvalue())
    database = tmp_path / "lite.db"
    sources = [f"{bucket}/photos/", f"{bucket}/photos-2/", f"{other}/photos/", f"{bucket}/photos/s.tar", str(local)]
    with CoopIngest("images", settings=Settings(uri=str(database), threads=1)) as ingest:
        assert ingest.run(sources).added == 6
    keys = ids(database)
    client = make_client(uri=database, roots=(f"{bucket}/photos/", str(local)))
    assert {uri: status(client, key) for uri, key in keys.items()} == {
        f"{bucket}/photos/dog.jpg": 200,
        f"{bucket}/photos/a/#1 é%2e.jpg": 200,
        f"{bucket}/photos-2/dog.jpg": 404,
        f"{other}/photos/dog.jpg": 404,
        f"{bucket}/photos/s.tar#in": 404,
        f"{local}/dog.jpg": 200,
    }
    key = keys[f"{bucket}/photos/dog.jpg"]
    shown = client.get(f"/v1/items/{key}/thumbnail?size=64")
    assert Image.open(io.BytesIO(shown.content)).format == "JPEG"
    assert max(Image.open(io.BytesIO(shown.content)).size) == 64
    again = client.get(f"/v1/items/{key}/thumbnail?size=64", headers={"if-none-match": shown.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    s3.put(f"{bucket}/photos/dog.jpg", CAT)
    changed = client.get(f"/v1/items/{key}/thumbnail?size=64", headers={"if-none-match": shown.headers["etag"]})
    assert (changed.status_code, changed.content != shown.content) == (200, True)
    s3.put(f"{bucket}/photos/dog.jpg", DOG[:3000])
    assert client.get(f"/v1/items/{key}/thumbnail?size=64").json()["detail"] == "the image can no longer be read"
    s3.remove(f"{bucket}/photos/dog.jpg")
    assert client.get(f"/v1/items/{key}/thumbnail?size=64").json()["detail"] == "there is no image to show for this item"


def test_a_store_that_is_gone_is_said_and_searches_go_on(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    database = tmp_path / "lite.db"
    try:
        with s3.S3Server() as server:
            for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
                monkeypatch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            place = f"s3://{s3.bucket('gone')}"
            s3.put(f"{place}/dog.jpg", DOG)
            with CoopIngest("images", settings=Settings(uri=str(database), threads=1)) as ingest:
                ingest.run(place)
            client = make_client(uri=database, roots=(place,))
            hit = client.post("/v1/search", json={"text": "a dog"}).json()["hits"][0]
            assert client.get(hit["thumbnail"]).status_code == 200
        refused = client.get(hit["thumbnail"])
        assert refused.status_code in (502, 504)
        assert refused.json()["detail"].startswith("the object store did not ")
        assert "127.0.0.1" not in refused.text
        assert client.post("/v1/search", json={"text": "a dog"}).json()["hits"][0]["uri"] == f"{place}/dog.jpg"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    "uri",
    [
        "memory://bucket/photos",
        "memory://bucket/photos/",
        "memory://bucket/photos-2/a.jpg",
        "memory://bucket/a.jpg",
        "memory://other/photos/a.jpg",
        "memory://bucket@other/photos/a.jpg",
        "memory://bucket/photos/../secret.jpg",
        "memory://bucket/photos/./a.jpg",
        "memory://bucket/photos/x/../a.jpg",
        "memory://bucket/photos/%2e%2e/secret.jpg",
        "memory://bucket/photos/%252e%252e%252fsecret.jpg",
        "memory://bucket/photos/..%2fsecret.jpg",
        "memory://bucket/photos/..\\secret.jpg",
        "memory://bucket/photos/..%5csecret.jpg",
        "memory://bucket/photos/a%00.jpg",
        "memory://bucket/photos/a\n.jpg",
        "s3://bucket/photos/a.jpg",
        "http://bucket/photos/a.jpg",
        "simplecache::memory://bucket/photos/a.jpg",
        "../secret.jpg",
        "/a.jpg",
        "//bucket/photos/a.jpg",
        "\\a.jpg",
        "file:a.jpg",
        "data:image/png;base64,AAAA",
        "",
    ],
)
def test_uris_that_lead_out_of_a_root(memory: str, uri: str) -> None:
    assert below_root(shown_root(memory), uri) is None


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("memory://bucket/photos/a.jpg", "a.jpg"),
        ("MEMORY://bucket/photos/a.jpg", "a.jpg"),
        ("memory://bucket/photos/b/100%.jpg", "b/100%.jpg"),
        ("memory://bucket/photos/b//..a.jpg", "b//..a.jpg"),
        ("memory://bucket/photos/s.tar#key", "s.tar#key"),
        ("b/a.jpg", "b/a.jpg"),
    ],
)
def test_uris_below_a_root(memory: str, uri: str, name: str) -> None:
    file = below_root(shown_root(f"{memory}/"), uri)
    assert file is not None
    assert (file.name, file.path) == (f"{memory}/{name}", f"/bucket/photos/{name}")


def test_relative_uris_are_looked_for_below_all_roots(memory: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/photos/b/dog.jpg", DOG)
    thumbnails = Thumbnails([], [shown_root("memory://bucket/none"), shown_root(memory)])
    original = found(thumbnails, "b/dog.jpg")
    assert original is not None
    assert thumbnails.make(original, 64).startswith(b"\xff\xd8")
    assert found(thumbnails, "dog.jpg") is None


def test_the_cache_holds_remote_thumbnails_and_forgets_old_versions(memory: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/photos/a.jpg", DOG)
    thumbnails = Thumbnails([], [shown_root(memory)])
    before = found(thumbnails, f"{memory}/a.jpg")
    assert before is not None
    dog = thumbnails.make(before, 64)
    system.rm_file("/bucket/photos/a.jpg")
    assert thumbnails.make(before, 64) is dog
    system.pipe_file("/bucket/photos/a.jpg", CAT)
    after = found(thumbnails, f"{memory}/a.jpg")
    assert after is not None
    assert thumbnails.make(after, 64) != dog


def test_large_images_are_not_read(memory: str) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/photos/a.jpg", DOG)
    root = replace(shown_root(memory), limit_bytes=len(DOG))
    assert found(Thumbnails([], [root]), f"{memory}/a.jpg") is not None
    assert found(Thumbnails([], [replace(root, limit_bytes=len(DOG) - 1)]), f"{memory}/a.jpg") is None
    grown = RemoteFile(root.system, "/bucket/photos/a.jpg", f"{memory}/a.jpg", known=(5, 1), limit_bytes=100)
    with pytest.raises(OSError, match="has grown to more than 100 bytes"):
        grown.open()


def test_a_store_that_does_not_answer_is_given_up() -> None:
    s3fs = pytest.importorskip("s3fs")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        system = s3fs.S3FileSystem(key="k", secret="s", endpoint_url=address, skip_instance_cache=True)
        file = RemoteFile(system, "bucket/a.jpg", "s3://bucket/a.jpg", limit_s=0.3)
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.3 s"):
            file.version()
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.3 s"):
            replace(file, known=(5, 1)).open()


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("s3://bucket/../other", "holds a segment .."),
        ("s3:///photos", "names no bucket"),
        ("s3://user:secret@bucket/photos", "holds a password"),
        ("http://example.com/photos", "cannot be at http://"),
        ("simplecache::s3://bucket/photos", "the root is"),
        ("file:///photos", "is a folder"),
        ("gs://bucket/photos", "gcsfs, which is not installed"),
    ],
)
def test_roots_that_cannot_be_used(root: str, message: str) -> None:
    with pytest.raises((InvalidArgumentError, SourceError), match=message) as caught:
        GatewayOptions(roots=(root,)).check()
    assert "secret" not in str(caught.value)


def test_a_remote_root_is_the_only_root(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = GatewayOptions(roots=(memory, "photos"))
    assert options.folders() == (tmp_path / "photos",)
    assert [prefix.name for prefix in options.prefixes()] == [memory]
    assert GatewayOptions(roots=(memory,)).folders() == ()


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_command_names_a_root_that_is_not_there(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    for logger in (logging.getLogger(), LOGGER):  # the command changes them, as a process of its own may
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    done = CliRunner().invoke(cli, ["serve", "--log", form, "--root", memory, "--uri", str(tmp_path / "no" / "lite.db")])
    said = done.output.splitlines()[0]
    problem = f"The root {memory} cannot be read now, so its images are not shown: there is nothing there"
    assert (json.loads(said)["event"] if form == "json" else said) == problem
    assert done.exit_code == 2
