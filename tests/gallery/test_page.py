"""The saved page: complete, escaped, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from milvus_coop.serving.gallery import render
from milvus_coop.types import CollectionInfo, Hit, SearchResult, Timings

EVIL = "</script><script>alert(1)</script><!-- \"'&\u202e\u2028 </title></style>"
INFO = CollectionInfo("images", "image", "coop-small 1.1.0", "f" * 16, 128, 3, "HNSW COSINE")


def hit(rank: int, be_rank: int, uri: str, **rest: Any) -> Hit:
    return Hit(id=f"{uri}{rank}", uri=uri, rank=rank, score=0.9, be_rank=be_rank, be_score=0.3, ce_score=0.9, **rest)


def result(*hits: Hit) -> SearchResult:
    return SearchResult(hits, True, len(hits), len(hits), None, Timings(1.0, 2.0, 3.0, 6.0))


def document(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="result">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    loaded: dict[str, Any] = json.loads(found[0])
    return loaded


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (900, 300), "red").save(path)
    return path


def test_foreign_text_stays_text() -> None:
    info = replace(INFO, name=EVIL, bundle=EVIL)
    page = render(result(hit(1, 1, EVIL, text=EVIL, fields={EVIL: [EVIL]})), EVIL, info, limit=1, filter=EVIL)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert page.count("</title>") == page.count("</style>") == 1
    assert "<!--" not in page
    assert "alert(1)</" not in page.replace("alert(1)&lt;/", "")
    told = document(page)
    assert told["query"]["text"] == told["hits"][0]["uri"] == told["hits"][0]["text"] == EVIL
    assert told["hits"][0]["fields"] == {EVIL: [EVIL]}


def test_nothing_is_loaded(picture: Path) -> None:
    page = render(result(hit(1, 1, str(picture)), hit(2, 2, "https://example.com/a.jpg")), picture, INFO, limit=2)
    without_data = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\s\"'`<)]+", without_data)) == {"http://www.w3.org/2000/svg"}
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "url(" not in page
    assert document(page)["hits"][1]["thumbnail"] is None


def test_the_policy_knows_the_script_and_the_style() -> None:
    page = render(result(hit(1, 1, "a.jpg")), "a dog", INFO, limit=1)
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)[0]
    for pattern, directive in ((r'<script type="module">(.*?)</script>', "script-src"), (r"<style>(.*?)</style>", "style-src")):
        content = re.findall(pattern, page, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_first_of_either_order_are_in_the_file() -> None:
    page = render(result(*(hit(i, 7 - i, f"{i}.jpg") for i in range(1, 7))), "a dog", INFO, limit=2)
    assert [h["rank"] for h in document(page)["hits"]] == [1, 2, 5, 6]
    assert document(page)["candidates"] == 6


def test_pictures_are_small_jpegs(picture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    uris = [str(picture), picture.as_uri(), str(broken), str(tmp_path / "pipe.jpg"), str(tmp_path), "red.png", "//host/red.png"]
    page = render(result(*(hit(i, i, uri) for i, uri in enumerate(uris, 1))), "red", INFO, limit=10)
    there = [h["thumbnail"] is not None for h in document(page)["hits"]]
    assert there == [True, True, False, False, False, False, False]
    encoded = document(page)["hits"][0]["thumbnail"].removeprefix("data:image/jpeg;base64,")
    assert base64.b64decode(encoded).startswith(b"\xff\xd8")


def test_texts_have_no_pictures(picture: Path) -> None:
    page = render(result(hit(1, 1, str(picture), text="red")), picture, replace(INFO, kind="text"), limit=1)
    assert document(page)["hits"][0]["thumbnail"] is None
    assert document(page)["query"] == {"kind": "image", "text": None}
    assert page.count('<img src="data:image/jpeg') == 1, "the picture that was searched with"


def test_nothing_found_is_said() -> None:
    assert "Nothing was found" in render(result(), "a dog", INFO, limit=3)
