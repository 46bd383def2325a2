"""Uploads, and thumbnails of what a service may show."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from milvus_coop import CoopIngest, FakeBackend, load_bundle
from milvus_coop.config import Settings
from milvus_coop.elsewhere.thumbnails import Thumbnails
from milvus_coop.store import Store
from milvus_coop.store.schema import EMBEDDING
from tests.gateway.conftest import EXAMPLES, MakeClient

DOG, CAT = ((EXAMPLES / "images" / name).read_bytes() for name in ("dog.jpg", "cat.jpg"))


def files(*contents: bytes) -> list[Any]:
    return [("files", (f"{i}.jpg", content)) for i, content in enumerate(contents)]


@pytest.fixture
def taking(make_client: MakeClient, tmp_path: Path) -> TestClient:
    """A client of a service that takes uploads, with no database yet."""
    return make_client(uri=tmp_path / "new.db", uploads=str(tmp_path / "uploads"), roots=())


def search(client: TestClient, text: str, **more: Any) -> list[dict[str, Any]]:
    return list(client.post("/v1/search", json={"text": text, **more}).json()["hits"])


def test_uploaded_pictures_are_found_and_shown(taking: TestClient, tmp_path: Path) -> None:
    metadata = json.dumps([{"who": "Rex"}, {"who": "Tom"}])
    done = taking.post("/v1/items", files=files(DOG, CAT), data={"metadata": metadata}).json()
    assert (done["added"], done["failed"], done["collection"]) == (2, 0, "images")
    assert [item["file"] for item in done["items"]] == ["0.jpg", "1.jpg"]
    best = search(taking, "a cat", output_fields=["who"])[0]
    assert best["fields"] == {"who": "Tom"}
    assert best["id"] == done["items"][1]["id"]
    assert Path(best["uri"]).read_bytes() == CAT
    assert Path(best["uri"]).is_relative_to(tmp_path / "uploads" / "images")
    shown = taking.get(done["items"][1]["thumbnail"])
    assert Image.open(io.BytesIO(shown.content)).format == "JPEG"


def test_the_same_picture_again_is_the_same_item(taking: TestClient, tmp_path: Path) -> None:
    taking.post("/v1/items", files=files(DOG))
    again = taking.post("/v1/items", files=[("files", ("other name.png", DOG))]).json()
    assert (again["added"], again["unchanged"]) == (0, 1)
    changed = taking.post("/v1/items", files=files(DOG), data={"metadata": '{"year": 2024}'}).json()
    assert changed["updated"] == 1
    assert search(taking, "a dog", filter="year == 2024", output_fields=["year"])[0]["fields"] == {"year": 2024}
    twice = taking.post("/v1/items", files=files(CAT, CAT)).json()
    assert (twice["added"], len(twice["items"])) == (1, 1)
    assert len(list((tmp_path / "uploads" / "images").iterdir())) == 2


def test_bad_pictures_are_named_and_the_others_go_on(taking: TestClient, tmp_path: Path) -> None:
    done = taking.post("/v1/items", files=files(DOG[:4000], CAT, b"no picture")).json()
    assert (done["added"], done["failed"]) == (1, 2)
    assert {failure["file"] for failure in done["failures"]} == {"0.jpg", "2.jpg"}
    assert [item["file"] for item in done["items"]] == ["1.jpg"]
    assert len(list((tmp_path / "uploads" / "images").iterdir())) == 1
    none = taking.post("/v1/items", files=files(DOG[:4000]))
    assert none.status_code == 400
    assert "none of the 1 images" in none.json()["detail"]


def test_the_limit_on_pixels_holds_before_anything_is_kept(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(uri=tmp_path / "new.db", uploads=str(tmp_path / "uploads"), roots=(), settings={"max_pixels": 1000})
    answer = client.post("/v1/items", files=files(CAT))
    assert answer.status_code == 400
    assert "at most 1,000" in answer.json()["detail"]
    assert not (tmp_path / "uploads" / "images").exists()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"gps": {"lat": 1e400}}', "not a finite number"),
        ('{"gps": NaN}', "not a finite number"),
        ('{"n": [18446744073709551616]}', "64 bits"),
        ('{"n": ' + "9" * 5000 + "}", "not JSON"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": "' + "x" * 65_536 + '"}', "at most 65,535"),
        ('{"id": 1}', "'id' is taken"),
        ('{"$a": 1}', "is taken"),
        ('{"": 1}', "is taken"),
        ('{"a": "\\ud83d"}', "not valid Unicode"),
        ("[1]", "expected: a JSON object"),
        ('"x, [{"', "expected: a JSON object"),
        ("{,}", "not JSON"),
    ],
    ids=range(14),
)
def test_metadata_that_cannot_be_stored_refuses_its_file_alone(
    make_client: MakeClient, tmp_path: Path, bad: str, said: str
) -> None:
    backend = FakeBackend(load_bundle("coop-small").spec)
    taking = make_client(uri=tmp_path / "new.db", uploads=str(tmp_path / "uploads"), backend=backend)
    metadata = f'[{bad}, {{"who": "Tom, [\\"the cat\\"]"}}]'
    done = taking.post("/v1/items", files=files(DOG, CAT), data={"metadata": metadata})
    assert done.status_code == 200, done.text
    assert [item["file"] for item in done.json()["items"]] == ["1.jpg"]
    (failure,) = done.json()["failures"]
    assert failure["file"] == "0.jpg"
    assert said in failure["reason"]
    assert "line" not in failure["reason"]
    (hit,) = search(taking, "a cat", output_fields=["*"])
    assert hit["fields"] == {"who": 'Tom, ["the cat"]', "uploaded_as": "1.jpg"}


def test_metadata_stays_unless_new_metadata_is_given(taking: TestClient) -> None:
    def upload(name: str, **data: str) -> dict[str, Any]:
        taking.post("/v1/items", files=[("files", (name, DOG))], data=data)
        (hit,) = search(taking, "a dog", output_fields=["*"])
        return dict(hit["fields"])

    assert upload("p.jpg", metadata='{"year": 2024}') == {"year": 2024, "uploaded_as": "p.jpg"}
    for data in ({}, {"metadata": ""}, {"metadata": "{}"}, {"metadata": "null"}, {"metadata": "[null]"}):
        assert upload("q.jpg", **data) == {"year": 2024, "uploaded_as": "p.jpg"}
    assert upload("q.jpg", metadata='{"who": "Rex"}') == {"who": "Rex", "uploaded_as": "q.jpg"}
    assert upload("r.jpg", metadata='{"who": "Rex", "uploaded_as": "mine"}') == {"who": "Rex", "uploaded_as": "mine"}


def test_large_metadata_of_many_files(taking: TestClient) -> None:
    """Each file may have 65,535 bytes; what all of them have together is limited by the body alone."""
    each = [{"note": "x" * 60_000, "n": i} for i in range(20)]
    some = [DOG + bytes([i]) for i in range(20)]
    done = taking.post("/v1/items", files=files(*some), data={"metadata": json.dumps(each)})
    assert (done.status_code, done.json()["added"]) == (200, 20)
    full = json.dumps({"a": "x" * (65_535 - len('{"a": ""}'))})
    assert taking.post("/v1/items", files=files(CAT), data={"metadata": full}).json()["added"] == 1


def test_names_of_clients_are_not_paths(taking: TestClient, tmp_path: Path) -> None:
    done = taking.post("/v1/items", files=[("files", ("../../../escape.jpg", DOG))]).json()
    assert Path(done["items"][0]["uri"]).parent == tmp_path / "uploads" / "images"
    assert not list(tmp_path.glob("**/escape*"))
    for name in ("../other", "a/b", "..", "x" * 300):
        refused = taking.post("/v1/items", files=files(CAT), data={"collection": name})
        assert refused.status_code == 400, name
    assert sorted(p.name for p in (tmp_path / "uploads").iterdir()) == ["images"]


@pytest.mark.parametrize(
    ("parts", "data", "said"),
    [
        ([], {"metadata": "{}"}, "0 files"),
        (files(*[DOG[:100]] * 65), {}, "65 files"),
        (files(DOG), {"metadata": "{"}, "not JSON"),
        (files(DOG), {"metadata": "3"}, "'metadata' is neither"),
        (files(DOG), {"metadata": "[{}, {}]"}, "'metadata' has 2 entries for 1 files"),
        (files(DOG), {"metadata": "[{}"}, "not JSON"),
        (files(DOG), {"metadata": '{"path": "/etc/passwd"}'}, "0.jpg: the name 'path' is taken"),
        (files(DOG), {"metadata": '{"embedding": 1}'}, "embedding"),
        (files(DOG), {"folder": "x"}, "'folder'"),
        ([*files(DOG), ("metadata", ("m.json", b"{}"))], {}, "is a file"),
    ],
)
def test_forms_that_do_not_fit(taking: TestClient, parts: list[Any], data: dict[str, str], said: str) -> None:
    refused = taking.post("/v1/items", files=parts or [("collection", (None, "images"))], data=data)
    assert refused.status_code == 400
    assert said in refused.json()["detail"]


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_service(taking: TestClient, tmp_path: Path) -> None:
    """A full disk gives the same answer. Nothing is kept, and the next upload succeeds."""
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "images").touch()
    answer = taking.post("/v1/items", files=files(DOG))
    assert answer.status_code == 507
    assert "cannot be kept" in answer.json()["detail"]
    assert str(tmp_path) not in answer.text
    (tmp_path / "uploads" / "images").unlink()
    assert taking.post("/v1/items", files=files(DOG)).json()["added"] == 1


def test_uploads_are_off_by_default(client: TestClient) -> None:
    refused = client.post("/v1/items", files=files(DOG))
    assert refused.status_code == 403
    assert "--uploads" in refused.json()["run"]
    assert client.post("/v1/items", content=b"x").status_code == 415


def test_thumbnails(client: TestClient) -> None:
    address = search(client, "a dog")[0]["thumbnail"]
    shown = client.get(address)
    assert shown.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(shown.content)).size) == 320
    assert max(Image.open(io.BytesIO(client.get(f"{address}&size=64").content)).size) == 64
    again = client.get(address, headers={"if-none-match": shown.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for size in (0, 31, 2049, "x"):
        assert client.get(f"{address}&size={size}").status_code == 422


def test_only_items_of_the_collection_have_thumbnails(client: TestClient) -> None:
    for path in ("/v1/items/0/thumbnail", "/v1/items/%27%20or%20id%20%3E%20%27/thumbnail", "/v1/items/..%2F..%2Fetc/thumbnail"):
        assert client.get(path).status_code == 404
    caption = client.post("/v1/search", json={"text": "a dog", "collection": "captions"}).json()["hits"][0]["id"]
    assert client.get(f"/v1/items/{caption}/thumbnail?collection=captions").status_code == 404
    assert client.get("/v1/items/0/thumbnail?collection=none").status_code == 404


def test_only_files_below_a_root_are_shown(make_client: MakeClient, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside, tmp_path / "inside-too"):
        folder.mkdir()
        shutil.copy(EXAMPLES / "images" / "dog.jpg", folder / "dog.jpg")
    (inside / "link.jpg").symlink_to(outside / "dog.jpg")
    (inside / "good.jpg").symlink_to(inside / "dog.jpg")
    (tmp_path / "list.jsonl").write_text('{"path": "inside/dog.jpg", "uri": "https://example.com/dog.jpg"}\n')
    settings = Settings(uri=str(tmp_path / "lite.db"), threads=1)
    with CoopIngest("images", settings=settings) as ingest:
        ingest.run([inside, outside, tmp_path / "inside-too", tmp_path / "list.jsonl"])
    with Store(tmp_path / "lite.db") as store:
        shown = {stamp.uri: key for key, stamp in store.open("images").all_stamps()}
    client = make_client(uri=tmp_path / "lite.db", roots=(str(inside),))
    status = {uri: client.get(f"/v1/items/{key}/thumbnail").status_code for uri, key in shown.items()}
    assert status == {
        f"{inside}/dog.jpg": 200,
        f"{inside}/good.jpg": 200,
        f"{inside}/link.jpg": 404,
        f"{outside}/dog.jpg": 404,
        f"{tmp_path}/inside-too/dog.jpg": 404,
        "https://example.com/dog.jpg": 404,
    }
    (inside / "dog.jpg").unlink()
    os.mkfifo(inside / "dog.jpg")  # opening it would wait for ever
    assert client.get(f"/v1/items/{shown[f'{inside}/dog.jpg']}/thumbnail").status_code == 404


@pytest.mark.parametrize(
    "uri", ["/etc/passwd", "etc/passwd", "file:///etc/passwd", "file://host/photos/dog.jpg", "//host/x", "\0", ""]
)
def test_uris_that_name_no_file_to_show(filled: Path, uri: str) -> None:
    assert Thumbnails([filled / "photos"]).original(uri) is None


def test_relative_uris_are_looked_for_below_the_roots(filled: Path, tmp_path: Path) -> None:
    thumbnails = Thumbnails([tmp_path, filled])
    for uri in ("photos/dog.jpg", "./photos/dog.jpg", "photos/../photos/dog.jpg"):
        found = thumbnails.original(uri)
        assert found is not None
        assert found.file == (filled / "photos" / "dog.jpg").resolve()
    (tmp_path.parent / "secret.jpg").write_bytes(DOG)
    for uri in ("../secret.jpg", "photos", "photos/none.jpg", "file:photos/dog.jpg", "s3://photos/dog.jpg", "a\0b", ".", ""):
        assert thumbnails.original(uri) is None, uri


def test_traversal_out_of_a_root(filled: Path) -> None:
    thumbnails = Thumbnails([filled / "photos"])
    assert thumbnails.original(f"{filled}/photos/dog.jpg") is not None
    assert thumbnails.original(f"file://{filled}/photos/dog.jpg") is not None
    assert thumbnails.original(f"{filled}/photos/../catalogue.jsonl") is None
    assert thumbnails.original(f"{filled}/photos") is None


def test_a_changed_picture_gets_another_thumbnail(filled: Path, tmp_path: Path) -> None:
    shutil.copy(filled / "photos" / "dog.jpg", tmp_path / "a.jpg")
    thumbnails = Thumbnails([tmp_path])
    before = thumbnails.original(str(tmp_path / "a.jpg"))
    assert before is not None
    dog = thumbnails.make(before, 64)
    assert thumbnails.make(before, 64) is dog  # remembered
    shutil.copy(filled / "photos" / "cat.jpg", tmp_path / "a.jpg")
    after = thumbnails.original(str(tmp_path / "a.jpg"))
    assert after is not None
    assert after.etag(64) != before.etag(64)
    assert thumbnails.make(after, 64) != dog


def test_the_embedding_is_not_metadata(client: TestClient) -> None:
    assert EMBEDDING not in search(client, "a dog", output_fields=["*"])[0]["fields"]
