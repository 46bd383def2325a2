"""The live page in a real browser, served by a real `milvus-coop serve` with the shipped bundle and Milvus Lite."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.gallery.browser import PHONE
from tests.gallery.conftest import EVIL, KEY, PICTURES, Open
from tests.gallery.serving import Serving

pytestmark = pytest.mark.browser
SEARCH = "**/v1/search"
CARRY = """([name, type, content]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name, {type}));
  return carried;
}"""
TEXTS = (".story", "#about", ".total", ".card .name", ".card .match small", ".options label", ".primary", ".notice b")


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox").fill(text)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).not_to_have_text(re.compile("^(Searching.*)?$"))


def first(page: Page) -> Locator:
    return page.locator(".card .name").first


def carry(page: Page, path: Path) -> object:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return page.evaluate_handle(CARRY, [path.name, "image/jpeg", content])


def test_the_right_picture_is_first(window: Open, server: Serving) -> None:
    opened = window(server.address)
    page = opened.page
    expect(page.get_by_role("heading", name=f"Search {len(PICTURES) + 1} images")).to_be_visible()
    search(page, "a sailing boat on the water")
    expect(first(page)).to_have_text("sailing_boat.jpg")
    expect(page.locator(".card")).to_have_count(len(PICTURES) + 1)
    expect(page.get_by_role("status")).to_contain_text(f"{len(PICTURES) + 1} candidates, {len(PICTURES) + 1} reranked")
    assert page.title() == "a sailing boat on the water · milvus-coop"
    assert page.url == f"{server.address}?q=a+sailing+boat+on+the+water"
    assert re.fullmatch(r"encode .+ms\s*retrieve .+ms\s*rerank .+ms\s*total .+", page.locator(".timings ul").inner_text())
    image = page.locator(".card img").first
    expect(image).to_have_attribute("alt", "sailing_boat.jpg")
    expect(image).to_have_js_property("complete", value=True)
    assert image.evaluate("img => img.naturalWidth") == 320 or image.evaluate("img => img.naturalHeight") == 320


def test_the_switch_changes_the_order_at_once(window: Open, server: Serving) -> None:
    opened = window(server.address)
    page = opened.page
    search(page, "two dogs")
    coop = opened.names()
    asked = len(opened.requests)
    page.get_by_label("Bi-encoder only").check()
    moves = page.locator(".card .move").all_inner_texts()
    assert [int(move.split()[1]) for move in moves] == list(range(1, len(PICTURES) + 2))
    assert opened.names() != coop
    assert page.url.endswith("?q=two+dogs&view=be")
    page.get_by_label("Coop", exact=True).check()
    assert opened.names() == coop
    assert not [url for url in opened.requests[asked:] if "/v1/search" in url]


def test_more_hits_come_from_the_next_page(window: Open, server: Serving) -> None:
    opened = window(f"{server.address}?q=two+dogs&k=5&show=12")
    page = opened.page
    more = page.get_by_role("button", name="More")
    expect(page.locator(".card")).to_have_count(5)
    with page.expect_request(SEARCH) as asked:
        more.click()
    body = json.loads(asked.value.post_data or "")
    assert (body["offset"], body["limit"]) == (5, 5)
    expect(page.locator(".card")).to_have_count(10)
    more.click()
    expect(page.locator(".card")).to_have_count(len(PICTURES) + 1)
    expect(more).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text(f"{len(PICTURES) + 1} hits shown.")
    assert opened.places() == [str(i) for i in range(1, len(PICTURES) + 2)]
    assert len(set(opened.names())) == len(PICTURES) + 1
    search(page, "a lighthouse")  # a new search starts with its first page
    expect(page.locator(".card")).to_have_count(5)
    expect(more).to_be_visible()


def test_more_of_the_hits_that_are_there(window: Open, server: Serving) -> None:
    opened = window(f"{server.address}?q=two+dogs&show=12")
    expect(opened.page.locator(".card")).to_have_count(12)
    asked = len(opened.requests)
    opened.page.get_by_role("button", name="More").click()
    expect(opened.page.locator(".card")).to_have_count(len(PICTURES) + 1)
    expect(opened.page.get_by_role("button", name="More")).to_be_hidden()
    assert not [url for url in opened.requests[asked:] if "/v1/search" in url]


def test_weak_matches_are_left_out(window: Open, server: Serving) -> None:
    opened = window(server.address)
    page = opened.page
    search(page, "two dogs")
    matches = [float(text.split()[0]) for text in page.locator(".card .match").all_inner_texts()]
    bound = (matches[0] + min(matches)) / 2
    found = sum(match > bound for match in matches)
    assert 0 < found < len(matches)
    least = page.get_by_label("Match from")
    least.fill(str(bound))
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(found)
    assert "match=" in page.url
    page.reload()
    expect(page.locator(".card")).to_have_count(found)
    least.fill("100")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.get_by_role("button", name="Search for all matches").click()
    expect(page.locator(".card")).to_have_count(len(PICTURES) + 1)


def test_the_address_holds_the_search(window: Open, server: Serving) -> None:
    opened = window(f"{server.address}?q=a+red+apple&k=5&view=be&filter=year+%3E+2012&show=12")
    page = opened.page
    expect(page.locator(".card")).to_have_count(5)
    expect(page.get_by_label("Bi-encoder only")).to_be_checked()
    expect(page.get_by_label("Filter")).to_have_value("year > 2012")
    search(page, "a lighthouse")
    expect(first(page)).to_have_text("lighthouse.jpg")
    page.go_back()
    expect(first(page)).to_have_text("apple.jpg")
    expect(page.get_by_role("searchbox")).to_have_value("a red apple")
    page.go_forward()
    expect(first(page)).to_have_text("lighthouse.jpg")
    page.reload()
    expect(first(page)).to_have_text("lighthouse.jpg")
    page.get_by_role("searchbox").fill("")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Search")).to_be_visible()
    assert "q=" not in page.url
    page.go_back()
    expect(first(page)).to_have_text("lighthouse.jpg")


def test_an_address_of_a_collection_that_is_gone(window: Open, server: Serving) -> None:
    page = window(f"{server.address}?collection=gone&q=a+sailing+boat").page
    expect(page.get_by_role("heading", name="There is no collection “gone”")).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    page.get_by_role("button", name="Search “images” instead").click()
    expect(first(page)).to_have_text("sailing_boat.jpg")
    assert page.url == f"{server.address}?q=a+sailing+boat"


def test_a_picture_is_dropped(window: Open, server: Serving, pictures: Path) -> None:
    page = window(server.address).page
    page.dispatch_event("body", "dragenter", {"dataTransfer": carry(page, pictures / "cat.jpg")})
    expect(page.get_by_text("Drop an image to search with it")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": carry(page, pictures / "cat.jpg")})
    expect(page.get_by_text("Drop an image to search with it")).to_be_hidden()
    expect(first(page)).to_have_text("cat.jpg")
    expect(page.locator("#chip-name")).to_have_text("cat.jpg")
    expect(page.locator(".card .match").first).to_contain_text("1.000 cosine")
    expect(page.locator(".notice")).to_contain_text("The query and the items are both images")
    search(page, "a lighthouse")
    expect(page.locator("#chip")).to_be_hidden()
    expect(first(page)).to_have_text("lighthouse.jpg")
    page.go_back()
    expect(first(page)).to_have_text("cat.jpg")
    expect(page.locator("#chip-name")).to_have_text("cat.jpg")


def test_a_picture_is_pasted_and_described_by_texts(window: Open, server: Serving, pictures: Path) -> None:
    page = window(f"{server.address}?collection=captions").page
    expect(page.get_by_role("heading", name="Search 60 texts")).to_be_visible()
    paste = "(element, clipboardData) => element.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true}))"
    page.locator("body").evaluate(paste, carry(page, pictures / "sailing_boat.jpg"))
    expect(page.locator(".card .words").first).to_contain_text("boat")
    expect(page.locator(".card .match").first).to_contain_text("match")
    page.get_by_label("Collection").select_option("images")
    expect(first(page)).to_have_text("sailing_boat.jpg")
    page.get_by_role("button", name="Remove the image").click()
    expect(page.get_by_role("searchbox")).to_be_focused()


def test_a_file_that_is_no_picture(window: Open, server: Serving, pictures: Path) -> None:
    opened = window(server.address)
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"not a picture"}
    opened.page.locator("#file").set_input_files(broken)  # type: ignore[arg-type]
    expect(opened.page.get_by_role("alert")).to_contain_text("not an image")
    opened.forgive("400")


def test_a_filter_that_does_not_work(window: Open, server: Serving) -> None:
    opened = window(server.address)
    page = opened.page
    search(page, "a dog")
    page.get_by_label("Filter").fill("year >")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The filter does not work")
    expect(page.get_by_role("alert")).to_contain_text("Expected: a Milvus expression")
    expect(page.get_by_label("Filter")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#results")).to_have_class(re.compile("stale"))
    opened.forgive("400")
    page.get_by_label("Filter").fill("year == 1066")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.get_by_role("button", name="Search without the filter").click()
    expect(first(page)).to_have_text("dog.jpg")
    expect(page.locator("#results")).not_to_have_class(re.compile("stale"))
    expect(page.get_by_role("alert")).to_have_count(0)


def test_without_the_cross_encoder(window: Open, server: Serving) -> None:
    def degrade(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told.update(reranked=False, reranked_count=0, reason="the cross-encoder cannot be reached")
        for hit in told["hits"]:
            hit.update(rank=hit["be_rank"], score=hit["be_score"], ce_score=None)
        route.fulfill(response=answer, json=told)

    opened = window(server.address)
    opened.page.route(SEARCH, degrade)
    search(opened.page, "two dogs")
    expect(opened.page.locator(".notice")).to_have_text(re.compile("^In the bi-encoder.s order. The cross-encoder cannot"))
    expect(opened.page.get_by_role("status")).to_contain_text("Not reranked")
    assert opened.page.get_by_label("Coop", exact=True).is_disabled()
    assert opened.places() == [str(i) for i in range(1, len(PICTURES) + 2)]


def test_a_busy_server_is_asked_once_more(window: Open, server: Serving) -> None:
    asked: list[Route] = []

    def busy_at_first(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"title": "Too Many Requests", "detail": "waiting"})

    opened = window(server.address)
    page = opened.page
    page.route(SEARCH, busy_at_first)
    page.get_by_role("searchbox").fill("a lighthouse")
    page.keyboard.press("Enter")
    expect(page.locator(".notice").first).to_have_text("The server is busy; trying again in 1 second.")
    while len(asked) < 2:  # the test's own limit ends it
        page.wait_for_timeout(50)
    asked[1].continue_()
    expect(first(page)).to_have_text("lighthouse.jpg")
    opened.forgive("429")


def test_who_is_faster_than_the_list_of_collections(window: Open, server: Serving) -> None:
    held: list[Route] = []
    opened = window("about:blank")
    page = opened.page
    page.route("**/v1/collections", lambda route: held.append(route))
    with page.expect_request("**/v1/collections"):
        page.goto(server.address)
    page.get_by_role("searchbox").fill("a lighthouse")
    page.keyboard.press("Enter")
    held[0].continue_()
    expect(first(page)).to_have_text("lighthouse.jpg")
    expect(page.get_by_role("searchbox")).to_have_value("a lighthouse")
    assert page.url.endswith("?q=a+lighthouse")


def test_a_late_answer_does_not_replace_a_newer_one(window: Open, server: Serving) -> None:
    held: list[Route] = []
    page = window(server.address).page
    page.route(SEARCH, lambda route: route.continue_() if held else held.append(route))
    page.get_by_role("searchbox").fill("a dog")
    page.keyboard.press("Enter")
    expect(page.locator(".ghost").first).to_be_visible()
    search(page, "a lighthouse")
    expect(first(page)).to_have_text("lighthouse.jpg")
    held[0].continue_()
    page.wait_for_load_state("networkidle")
    expect(first(page)).to_have_text("lighthouse.jpg")


def test_the_keyboard_is_enough(window: Open, server: Serving) -> None:
    opened = window(server.address)
    page = opened.page
    search(page, "a lighthouse")
    cards = page.locator(".card button")
    columns = len({round(box["x"]) for card in cards.all() if (box := card.bounding_box())})
    cards.first.focus()
    page.keyboard.press("ArrowRight")
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(cards.nth(1 + columns)).to_be_focused()
    page.keyboard.press("Home")
    expect(cards.first).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"1 of {len(PICTURES) + 1}")
    expect(dialog).to_contain_text("2015")  # metadata
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    expect(dialog).to_contain_text(f"2 of {len(PICTURES) + 1}")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    expect(page.get_by_role("searchbox")).to_have_value("a lighthouse")


def test_evil_metadata_is_shown_as_it_is(window: Open, server: Serving) -> None:
    page = window(server.address).page
    search(page, "a rocket")
    page.get_by_role("button", name="gnp.jpg").click()
    assert EVIL in page.get_by_role("dialog").locator("dd").all_text_contents()
    expect(page.locator(".large img")).to_have_js_property("complete", value=True)
    assert page.locator(".large img").evaluate("img => img.naturalWidth") > 0
    assert page.evaluate("window.pwned") is None


def test_an_item_without_a_picture(window: Open, server: Serving) -> None:
    opened = window(server.address)
    opened.page.route("**/thumbnail?*", lambda route: route.fulfill(status=404, json={}))
    search(opened.page, "a dog")
    expect(opened.page.locator(".missing").first).to_contain_text("dog.jpg")
    opened.forgive("404")


def test_a_phone_has_nothing_to_scroll_sideways(window: Open, server: Serving) -> None:
    opened = window(server.address, size=PHONE)
    page = opened.page
    expect(page.get_by_role("heading", name="Search")).to_be_visible()
    assert opened.fits()
    search(page, "two dogs")
    assert opened.fits()
    page.locator(".card button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert opened.fits()
    page.get_by_role("button", name="Close").click()
    page.get_by_label("Filter").fill(f'title == "{"x" * 200}"')
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    assert opened.fits()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_can_be_read(window: Open, server: Serving, pictures: Path, *, dark: bool) -> None:
    opened = window(server.address, dark=dark)
    opened.page.locator("#file").set_input_files(pictures / "dog.jpg")
    expect(first(opened.page)).to_have_text("dog.jpg")
    expect(opened.page.locator("body")).to_have_css("background-color", "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
    low = {selector: ratio for selector, ratio in opened.contrast(*TEXTS).items() if ratio < 4.5}
    assert not low, "WCAG 2 AA asks for 4.5"


def test_a_key_is_asked_for_and_the_server_goes_away(window: Open, guarded: Serving) -> None:
    opened = window(guarded.address)
    page = opened.page
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("not the key that it wants")
    page.keyboard.press("Enter")
    expect(page.locator(".state")).to_contain_text("does not know the key")
    opened.forgive("401")
    key.fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Search")).to_be_visible()
    search(page, "a lighthouse")
    expect(first(page)).to_have_text("lighthouse.jpg")
    image = page.locator(".card img").first
    expect(image).to_have_attribute("src", re.compile("^blob:"))
    expect(image).to_have_js_property("complete", value=True)
    assert image.evaluate("img => img.naturalWidth") > 0
    assert KEY not in page.url

    guarded.kill()
    search(page, "a dog")
    expect(page.get_by_role("alert")).to_contain_text("The server is away")
    expect(page.locator("#results")).to_have_class(re.compile("stale"))
    expect(first(page)).to_have_text("lighthouse.jpg")
    opened.forgive("net::ERR_")

    guarded.restart()
    page.get_by_role("button", name="Try again").click()
    expect(first(page)).to_have_text("dog.jpg")
    expect(page.locator("#results")).not_to_have_class(re.compile("stale"))
    expect(page.get_by_role("alert")).to_have_count(0)
