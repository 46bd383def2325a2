"""The files of the page: complete, and nothing in them that its policy forbids."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import milvus_coop.serving.gallery
from milvus_coop.serving.gallery import PAGE, assets

FOLDER = Path(milvus_coop.serving.gallery.__file__).parent
SAVED_ONLY = {"saved.html", "saved.js"}
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.js"))


def test_every_file_is_served() -> None:
    there = {path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"}
    assert set(assets()) == there - SAVED_ONLY
    assert all(asset.content for asset in assets().values())


def test_the_page_names_files_that_exist() -> None:
    page = assets()[PAGE].content.decode("utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert named
    assert {name.removeprefix("gallery/") for name in named} <= set(assets())
    for script in SCRIPTS:
        imports = re.findall(r'from "\./([^"]+)"', (FOLDER / script).read_text(encoding="utf-8"))
        assert set(imports) <= set(assets())


def test_nothing_inline() -> None:
    page = assets()[PAGE].content.decode("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


@pytest.mark.parametrize("name", [*sorted(assets()), *SAVED_ONLY])
def test_nothing_from_elsewhere(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_foreign_text_never_becomes_markup(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser", text)
    assert "</script" not in text
    assert "<!--" not in text
