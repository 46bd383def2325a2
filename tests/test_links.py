"""Relative links of all Markdown pages lead to a file, and to a heading where they name one."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("deploy", "docs", "examples", "helm", "milvus_coop", "recipes", "triton_models")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path) -> None:
    broken = [link for link in links(page.read_text("utf-8")) if not leads_somewhere(page, link)]
    assert not broken


def links(text: str) -> list[str]:
    """The relative targets of links and images, outside code."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose)
    return [target for target in targets if not re.match(r"[a-z][a-z+.-]*:", target)]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path) if path else page
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text("utf-8"))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+?)\s*$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One thing, here\n", "utf-8")
    assert links("[a](b.md) `[c](d.md)` ![e\nf](g.svg) [h](https://milvus.io) [i](#one)") == ["b.md", "g.svg", "#one"]
    assert leads_somewhere(page, "page.md#one-thing-here")
    assert leads_somewhere(page, "#one-thing-here")
    assert not leads_somewhere(page, "page.md#another")
    assert not leads_somewhere(page, "gone.md")
