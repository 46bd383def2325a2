"""The files of the live page, as the gateway serves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

PAGE = "index.html"
"""The page at `/`; it links to the other files as `gallery/<name>`."""

CONTENT_TYPES: Mapping[str, str] = {
    PAGE: "text/html; charset=utf-8",
    "gallery.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "grid.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    content: bytes
    content_type: str


@cache
def assets() -> Mapping[str, Asset]:
    """All files of the live page by name. They are read only once."""
    return MappingProxyType({name: Asset(_read(name), kind) for name, kind in CONTENT_TYPES.items()})


def text(name: str) -> str:
    """The text of one file of this package. Line ends are normalised to LF, because the page's policy holds hashes of the texts."""
    return _read(name).decode("utf-8").replace("\r\n", "\n")


def _read(name: str) -> bytes:
    return files("milvus_coop.serving.gallery").joinpath(name).read_bytes()
