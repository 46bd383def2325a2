"""A real Chromium: where it is, and pages that take note of what goes wrong in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

NAMES = ("chromium", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = (1280, 860), (390, 844)
TIMEOUT_MS = 20_000
"""For whatever a test waits for; other work may run beside it."""
CONTRAST = """selectors => {
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgba("white");
  };
  return Object.fromEntries(selectors.map(selector => {
    const element = document.querySelector(selector);
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    return [selector, (a + 0.05) / (b + 0.05)];
  }));
}"""


def chromium() -> str:
    """The program; skips the test where there is none, but not in CI, which installs it."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"none of {', '.join(NAMES)} is in PATH; .ci/run installs chromium")
    if found is None:
        pytest.skip("the gallery is NOT tested: there is no Chromium; apt-get install chromium, or set CHROMIUM to its path")
    return found


@contextmanager
def started() -> Iterator[Browser]:
    """The browser, for a while."""
    path = chromium()
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


class Opened:
    """One page in a window of its own, and what its console said."""

    def __init__(self, browser: Browser, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            has_touch=size == PHONE,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self._heard: list[str] = []
        self._forgiven: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self._heard.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def forgive(self, part: str) -> None:
        """Expect complaints with that in them: the browser itself reports requests that failed."""
        self._forgiven.append(part)

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings in the console, without those that were expected."""
        return [text for text in self._heard if not any(part in text for part in self._forgiven)]

    def names(self) -> list[str]:
        """The file names on the cards, in their order."""
        return self.page.locator(".card .name").all_inner_texts()

    def places(self) -> list[str]:
        """The numbers on the cards."""
        return self.page.locator(".card .place").all_inner_texts()

    def fits(self) -> bool:
        """Whether nothing sticks out to the right."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    def contrast(self, *selectors: str) -> dict[str, float]:
        """The contrast of text to what is behind it, as WCAG 2 computes it, by selector."""
        found: dict[str, float] = self.page.evaluate(CONTRAST, list(selectors))
        return found

    def close(self) -> None:
        """Close the window."""
        self._context.close()

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._heard.append(message.text)
