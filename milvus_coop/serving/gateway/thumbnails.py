"""The addresses of thumbnails."""

from __future__ import annotations

from urllib.parse import quote


def thumbnail_of(collection: str, item: str) -> str:
    """The address of an item's thumbnail, relative to the service."""
    return f"/v1/items/{quote(item, safe='')}/thumbnail?collection={quote(collection, safe='')}"
