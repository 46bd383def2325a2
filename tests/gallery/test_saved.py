"""`milvus-coop query --html` in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from milvus_coop.cli.main import cli
from tests.gallery.browser import PHONE
from tests.gallery.conftest import EVIL, EVIL_NAME, PICTURES, Open

TEXTS = (".story", ".soft", ".total", ".card .name", ".card .move", ".card .match small", ".switch label:last-of-type span")


@pytest.fixture(autouse=True)
def settings(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_COOP_URI", str(database))
    monkeypatch.chdir(tmp_path)


def query(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["query", *(str(a) for a in arguments)])


def test_the_table_stays_what_it_was(tmp_path: Path) -> None:
    plain, saved = query("a red apple", "--limit", "3"), query("a red apple", "--limit", "3", "--html", "out.html")
    assert saved.exit_code == 0, saved.output
    assert saved.output.count("│ 3 │") == 1
    assert "│ 4 │" not in saved.output
    assert saved.output.splitlines()[:-2] == plain.output.splitlines()[:-1]
    assert saved.output.endswith("Written: out.html\n")


def test_with_json_the_output_stays_json(tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("old", encoding="utf-8")
    done = query("a red apple", "--limit", "2", "--json", "--html", "out.html")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "Written: out.html\n"
    assert (tmp_path / "out.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_place_that_cannot_be_written() -> None:
    done = query("a red apple", "--html", "nowhere/out.html")
    assert done.exit_code == 2
    assert "nowhere/out.html cannot be written: No such file or directory" in done.stderr


@pytest.mark.browser
def test_both_orders_and_details(window: Open, tmp_path: Path) -> None:
    assert query("a sailing boat on the water", "--limit", "5", "--output-fields", "*", "--html", "out.html").exit_code == 0
    opened = window((tmp_path / "out.html").as_uri())
    page = opened.page
    assert opened.names()[0] == "sailing_boat.jpg"
    assert opened.places() == ["1", "2", "3", "4", "5"]
    coop = opened.names()
    page.get_by_label("Bi-encoder only").check()
    moves = page.locator(".card .move").all_inner_texts()
    assert [int(move.split()[1]) for move in moves] == [1, 2, 3, 4, 5]
    page.get_by_label("Coop", exact=True).check()
    assert opened.names() == coop
    assert page.evaluate("[...document.querySelectorAll('.card img')].every(img => img.naturalWidth > 0)")
    page.locator(".card button").first.click()
    dialog = page.get_by_role("dialog", name="sailing_boat.jpg")
    assert "sailing boat" in dialog.inner_text()
    assert "match probability" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    assert [url for url in opened.requests if not url.startswith("data:")] == [(tmp_path / "out.html").as_uri()]


@pytest.mark.browser
def test_evil_names_and_metadata_are_shown_as_they_are(window: Open, tmp_path: Path) -> None:
    everything = ["--limit", str(len(PICTURES) + 1), "--output-fields", "title", "--html", "out.html"]
    assert query(EVIL, *everything).exit_code == 0
    opened = window((tmp_path / "out.html").as_uri())
    assert EVIL_NAME in [name.get_attribute("title").rpartition("/")[2] for name in opened.page.locator(".name").all()]  # type: ignore[union-attr]
    opened.page.get_by_role("button", name="gnp.jpg").click()
    assert EVIL in opened.page.get_by_role("dialog").locator("dd").all_text_contents()
    assert opened.page.evaluate("window.pwned") is None
    assert EVIL in str(opened.page.locator(".asked h2").text_content())


@pytest.mark.browser
def test_a_picture_among_texts(window: Open, tmp_path: Path, pictures: Path) -> None:
    image = ["--image", str(pictures / "two_dogs.jpg")]
    assert query(*image, "--collection", "captions", "--limit", "4", "--html", "out.html").exit_code == 0
    opened = window((tmp_path / "out.html").as_uri(), size=PHONE, dark=True)
    assert opened.page.locator(".texts .words").count() == 4
    assert opened.page.locator(".asked img").evaluate("img => img.naturalWidth") > 0
    assert opened.fits()
    opened.page.locator(".card button").first.click()
    assert opened.page.get_by_role("dialog").locator("blockquote").inner_text()
    assert opened.fits()


@pytest.mark.browser
def test_without_the_cross_encoder(window: Open, tmp_path: Path) -> None:
    assert query("a dog", "--no-rerank", "--html", "out.html").exit_code == 0
    page = window((tmp_path / "out.html").as_uri()).page
    assert "Reranking was turned off" in page.locator(".notice").inner_text()
    assert page.get_by_label("Coop", exact=True).is_disabled()
    assert "cosine" in page.locator(".card").first.inner_text()


@pytest.mark.browser
def test_pictures_that_are_gone(window: Open, tmp_path: Path, pictures: Path) -> None:
    hidden = pictures / "dog.jpg"
    hidden.rename(tmp_path / "elsewhere.jpg")
    try:
        assert query("a dog", "--html", "out.html").exit_code == 0
    finally:
        (tmp_path / "elsewhere.jpg").rename(hidden)
    page = window((tmp_path / "out.html").as_uri()).page
    assert page.locator(".missing").all_text_contents() == [str(hidden)]


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_can_be_read(window: Open, tmp_path: Path, *, dark: bool) -> None:
    assert query("a dog", "--html", "out.html").exit_code == 0
    opened = window((tmp_path / "out.html").as_uri(), dark=dark)
    low = {selector: ratio for selector, ratio in opened.contrast(*TEXTS, ".card .up b", ".card .down b").items() if ratio < 4.5}
    assert not low, "WCAG 2 AA asks for 4.5"
