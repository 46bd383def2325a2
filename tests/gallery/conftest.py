"""A browser for this folder, pictures with harmless and with evil metadata, and the server that shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from milvus_coop import CoopIngest
from tests.gallery import browser as browsers
from tests.gallery.browser import Opened
from tests.gallery.serving import Serving

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PICTURES = ("sailing_boat", "dog", "two_dogs", "cat", "apple", "lighthouse", "giraffe", "duck", "owl", "bus", "pizza", "guitar")
EVIL = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>\"&\u202e\u2028"
EVIL_NAME = "<img src=x onerror=window.pwned=3>&quot;\u202egnp.jpg"
KEY = "a-key-for-these-tests-only"
Open = Callable[..., Opened]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with browsers.started() as browser:
        yield browser


@pytest.fixture
def window(browser: Browser) -> Iterator[Open]:
    """Opens pages; none of them may have complained at the end, except of what a test forgives."""
    opened: list[Opened] = []

    def open_page(address: str, **options: object) -> Opened:
        opened.append(Opened(browser, **options))  # type: ignore[arg-type]
        opened[-1].page.goto(address)
        return opened[-1]

    yield open_page
    for page in opened:
        page.close()
    assert [page.complaints for page in opened] == [[] for _ in opened]


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and a list of them with metadata."""
    folder = tmp_path_factory.mktemp("gallery") / "pictures"
    folder.mkdir()
    for name in PICTURES:
        shutil.copy(EXAMPLES / "images" / f"{name}.jpg", folder)
    shutil.copy(EXAMPLES / "images" / "rocket.jpg", folder / EVIL_NAME)
    rows = [{"path": f"{name}.jpg", "year": 2010 + i, "title": name.replace("_", " ")} for i, name in enumerate(PICTURES)]
    rows.append({"path": EVIL_NAME, "year": 1999, "title": EVIL})
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="package")
def database(pictures: Path) -> Path:
    """Milvus Lite with the pictures in `images`, and some texts in `captions`."""
    path = pictures.parent / "lite.db"
    with CoopIngest("images", uri=path) as ingest:
        assert ingest.run([pictures / "list.jsonl"]).added == len(PICTURES) + 1
    with CoopIngest("captions", kind="text", uri=path) as ingest:
        assert ingest.run([EXAMPLES / "captions.txt"]).failed == 0
    return path


@pytest.fixture(scope="package")
def server(database: Path, pictures: Path) -> Iterator[Serving]:
    with Serving(database, pictures.parent / "open", pictures) as server:
        yield server


@pytest.fixture
def guarded(database: Path, pictures: Path, tmp_path: Path) -> Iterator[Serving]:
    """A server of the test's own, which asks for a key."""
    with Serving(database, tmp_path / "guarded", pictures, key=KEY) as server:
        yield server
