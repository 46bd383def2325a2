"""`score`, `embed`, `query --image` and `query --html` with images in an object store."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from milvus_coop import CoopModel
from milvus_coop.cli import embed
from milvus_coop.cli.main import cli
from milvus_coop.errors import ImageUnreadableError
from milvus_coop.models.preprocess.images import decode
from tests.servers import s3

EXAMPLES = Path(__file__).parents[2] / "examples" / "images"
IMAGES = ("apple.jpg", "cat.jpg", "dog.jpg")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], env={"COLUMNS": "200"})


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def place(s3_server: str) -> str:
    """A bucket with three images, a broken one, an empty one, and a shard."""
    place = f"s3://{s3.bucket('remote-images')}"
    for name in IMAGES:
        s3.put(f"{place}/photos/{name}", (EXAMPLES / name).read_bytes())
    s3.put(f"{place}/broken.jpg", (EXAMPLES / "dog.jpg").read_bytes()[:3000])
    s3.put(f"{place}/empty.jpg", b"")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("dog.jpg", (EXAMPLES / "dog.jpg").read_bytes()), ("bad.jpg", b"no image")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    s3.put(f"{place}/s.tar", buffer.getvalue())
    return place


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("chunk_bytes", [1, embed.CHUNK_BYTES])
def test_embed(place: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "CHUNK_BYTES", chunk_bytes)
    sources = (f"{place}/photos/", f"{place}/broken.jpg", f"{place}/s.tar", f"{place}/empty.jpg", EXAMPLES / "pizza.jpg")
    result = run("embed", *sources, "--out", "vectors.jsonl")
    assert result.exit_code == 1, result.output
    rows = lines(Path("vectors.jsonl").read_text(encoding="utf-8"))
    remote = [f"{place}/photos/{name}" for name in IMAGES]
    assert sorted(row["uri"] for row in rows) == sorted([*remote, f"{place}/s.tar#dog", str(EXAMPLES / "pizza.jpg")])
    with CoopModel() as model:
        expected = dict(
            zip([*IMAGES, "pizza.jpg"], model.embed_images([EXAMPLES / n for n in (*IMAGES, "pizza.jpg")]), strict=True)
        )
    for row in rows:
        name = row["uri"].rpartition("/")[2].replace("s.tar#dog", "dog.jpg")
        np.testing.assert_allclose(row["vector"], expected[name], atol=1e-5)
    assert re.search(rf"{re.escape(place)}/broken\.jpg +cannot be read: image file is truncated", result.output)
    assert re.search(rf"{re.escape(place)}/empty\.jpg +the file is empty", result.output)
    assert re.search(rf"{re.escape(place)}/s\.tar#bad +not an image", result.output)


def test_score(place: str) -> None:
    result = run("score", "--text", "a dog", "--text", "a cat", f"{place}/photos/*.jpg", f"{place}/broken.jpg", "--json")
    assert result.exit_code == 1, result.output
    rows = lines(result.stdout)
    best = {uri: max((r for r in rows if r["uri"] == uri), key=lambda r: r["ce_score"])["text"] for uri in {r["uri"] for r in rows}}
    assert {uri.rpartition("/")[2] for uri in best} == set(IMAGES)
    assert (best[f"{place}/photos/dog.jpg"], best[f"{place}/photos/cat.jpg"]) == ("a dog", "a cat")
    assert f"{place}/broken.jpg  cannot be read: image file is truncated" in result.stderr


def test_texts_from_a_list_in_a_store(place: str) -> None:
    s3.put(f"{place}/texts.txt", b"a dog\na cat\n")
    result = run("score", "--texts", f"{place}/texts.txt", f"{place}/photos/dog.jpg", "--json")
    assert result.exit_code == 0, result.output
    assert [row["text"] for row in lines(result.stdout)] == ["a dog", "a cat"]


def test_query_with_a_remote_image_and_a_page(place: str) -> None:
    Path("captions.txt").write_text("a dog\na cat\nan apple\n", encoding="utf-8")
    assert run("ingest", "captions.txt", "--texts", "--collection", "captions").exit_code == 0
    done = run("query", "--image", f"{place}/photos/cat.jpg", "--collection", "captions", "--json", "--html", "cat.html")
    assert done.exit_code == 0, done.output
    assert lines(done.stdout)[0]["text"] == "a cat"
    page = Path("cat.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/jpeg') == 1
    assert f"<title>{place}/photos/cat.jpg" in page

    assert run("ingest", f"{place}/photos/", EXAMPLES / "pizza.jpg").exit_code == 0

    def shown(*roots: str) -> dict[str, bool]:
        given = [part for root in roots for part in ("--root", root)]
        done = run("query", "a dog", "--limit", "4", "--html", "out.html", *given)
        assert done.exit_code == 0, done.output
        (document,) = re.findall(r'id="result">(.*?)</script>', Path("out.html").read_text(encoding="utf-8"), re.DOTALL)
        return {hit["uri"].rpartition("/")[2]: hit["thumbnail"] is not None for hit in json.loads(document)["hits"]}

    assert shown() == dict.fromkeys(IMAGES, False) | {"pizza.jpg": True}
    assert shown(f"{place}/other", f"{place}/photos/") == dict.fromkeys(IMAGES, True) | {"pizza.jpg": True}
    assert shown(f"{place}/photos/c") == dict.fromkeys(IMAGES, False) | {"pizza.jpg": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query", "--image", "s3://remote-images/none.jpg"), "s3://remote-images/none.jpg cannot be read: "),
        (("query", "--image", "s3://remote-images/broken.jpg"), "image file is truncated"),
        (("query", "--image", "s3://user:secret@bucket/a.jpg"), "holds a password"),
        (("query", "--image", "gs://bucket/a.jpg"), "gcsfs, which is not installed"),
        (("query", "--image", "https://example.com/a.jpg"), "is an HTTP address.\nExpected: --allow-http"),
        (("query", "--image", "http://127.0.0.1:9/a.jpg", "--allow-http"), "has the address 127.0.0.1, which is not public"),
        (("query", "--image", "ftp://host/a.jpg"), "URLs are not fetched"),
        (("query", "x", "--root", "s3://bucket"), "--root is given without --html"),
        (("query", "x", "--root", "photos", "--html", "x.html"), "is a folder.\nExpected: s3://bucket/prefix"),
        (("query", "x", "--root", "https://host/photos", "--html", "x.html"), "cannot be at https://"),
        (("score", "--text", "x", "https://example.com/a.jpg"), "is an HTTP address.\nExpected: --allow-http"),
        (("score", "--text", "x", "http://127.0.0.1:9/a.jpg", "--allow-http"), "has the address 127.0.0.1, which is not public"),
        (("score", "--text", "x", "s3://remote-images/none.jpg"), "there is no s3://remote-images/none.jpg"),
        (("embed", "http://127.0.0.1:9/a.jpg", "--allow-http", "--out", "x.npy"), "which is not public"),
    ],
)
def test_what_cannot_be_read_is_an_error(place: str, arguments: tuple[str, ...], message: str) -> None:
    Path("captions.txt").write_text("a dog\n", encoding="utf-8")
    if arguments[-1] in ("s3://remote-images/broken.jpg", "ftp://host/a.jpg"):  # the collection comes first
        assert run("ingest", "captions.txt", "--texts").exit_code == 0
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "secret" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("address", ["s3://bucket/a.jpg", "https://host/a.jpg", "S3://bucket/a.jpg"])
def test_an_address_is_never_a_local_path(address: str) -> None:
    path = Path(address)  # a relative path: folders s3: and bucket
    path.parent.mkdir(parents=True)
    path.write_bytes((EXAMPLES / "dog.jpg").read_bytes())
    with pytest.raises(ImageUnreadableError, match="is a URL, and URLs are not fetched"):
        decode(address)
    assert decode(path).mode == "RGB"
