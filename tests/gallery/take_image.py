"""Take `docs/gallery.jpg`, the README's image of the gallery: `make gallery-image`, or `python -m tests.gallery.take_image`.

It ingests the sample images into a temporary Milvus Lite database, serves them with `milvus-coop serve`, searches in Chromium, and
takes a screenshot of the page with two rows of hits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import urlencode

import click
import pytest
from playwright.sync_api import Page, expect

from milvus_coop import CoopIngest
from milvus_coop.cli.demo import QUERIES, sample_images
from tests.gallery.browser import Opened, started
from tests.gallery.serving import Serving

TARGET = Path(__file__).parents[2] / "docs" / "gallery.jpg"
SIZE = (1280, 822)
"""Width and height of the page in pixels: room for two rows of five hits."""
SEEN = 10
"""How many hits these two rows show."""


@click.command()
@click.option("--query", "text", default=QUERIES[1], show_default=True, help="What is searched for.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=TARGET, help="The JPEG file that is written; default docs/gallery.jpg."
)
def main(text: str, out: Path) -> None:
    """Take the README's image of the gallery."""
    try:
        take(text, out)
    except pytest.skip.Exception as exc:  # the tests skip where there is no Chromium
        raise click.ClickException(str(exc)) from exc


def take(text: str, out: Path) -> None:
    """Search the sample images for `text` and write the page to the JPEG file `out`."""
    images = sample_images()
    with tempfile.TemporaryDirectory(prefix="milvus-coop-gallery-") as name:
        database = Path(name, "gallery.db")
        with CoopIngest("images", uri=database) as ingest:
            ingest.run([images])
        with started() as browser, Serving(database, Path(name, "served"), images) as server:
            opened = Opened(browser, size=SIZE)
            page = opened.page
            page.goto(f"{server.address}?{urlencode({'q': text})}")
            shown(page)
            page.reload()  # the times that the page shows are those of a service that has answered before
            shown(page)
            page.get_by_role("searchbox").blur()
            page.screenshot(path=out, type="jpeg", quality=90)
            click.echo(f"{out}: “{text}” finds {', '.join(opened.names()[:3])} first")
            opened.close()


def shown(page: Page) -> None:
    """Wait until the images of the hits in sight are there, and have been faded in."""
    for number in range(SEEN):
        expect(page.locator(".card img").nth(number)).to_have_js_property("complete", value=True)
    page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")


if __name__ == "__main__":
    main()
