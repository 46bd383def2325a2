"""A search result as one HTML file. It works offline, shows both orders, and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from milvus_coop.errors import ImageError
from milvus_coop.models.preprocess.thumbnails import thumbnail
from milvus_coop.models.preprocess.uris import local_path
from milvus_coop.serving.gallery.assets import assets, text
from milvus_coop.types import CollectionInfo, Hit, Kind, SearchResult

EDGE = 480
"""Length of the longer edge of the images in the file, in pixels; each image takes 20 to 40 kB."""
QUERY_EDGE = 224
POLICY = "default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'"
"""Content security policy: nothing is loaded, and no script in a text or in metadata can run."""


def render(result: SearchResult, query: str | Path | bytes, collection: CollectionInfo, *, limit: int, filter: str = "") -> str:
    """The HTML text of the page.

    Args:
        result: the result with all candidates, best first, so that each order has its first `limit` hits.
        query: the text, or the path or the bytes of the image.
        collection: the collection that was searched.
        limit: number of hits to show in each order.
        filter: the filter of the search.
    """
    hits = [hit for hit in result.hits if hit.rank <= limit or hit.be_rank <= limit]
    style, script = text("gallery.css"), text("grid.js") + text("saved.js")
    asked = f"“{query}”" if isinstance(query, str) else query.name if isinstance(query, Path) else "an image"
    return Template(text("saved.html")).substitute(
        policy=POLICY.format(script=_hash(script), style=_hash(style)),
        title=escape(f"{asked} · milvus-coop"),
        icon=_data_uri(assets()["icon.svg"].content, "image/svg+xml"),
        style=style,
        image="" if isinstance(query, str) else _query_image(query),
        asked=escape(asked),
        facts=escape(_facts(collection, filter)),
        nothing="" if hits else "<p>Nothing was found.</p>",
        document=_json(_document(result, query, collection, hits, limit)),
        script=script,
    )


def _facts(collection: CollectionInfo, filter: str) -> str:
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    facts = [f"{collection.name}, {collection.count:,} items", collection.bundle, f"filter {filter}" if filter else "", when]
    return " · ".join(fact for fact in facts if fact)


def _document(
    result: SearchResult, query: str | Path | bytes, collection: CollectionInfo, hits: list[Hit], limit: int
) -> dict[str, Any]:
    """The result in the form of the HTTP API, with the images and the limit."""
    return {
        "collection": collection.name,
        "kind": collection.kind,
        "query": {"kind": "text", "text": query} if isinstance(query, str) else {"kind": "image", "text": None},
        "limit": limit,
        "hits": [asdict(hit) | {"thumbnail": _hit_image(hit, collection.kind)} for hit in hits],
        "reranked": result.reranked,
        "reranked_count": result.reranked_count,
        "candidates": result.candidates,
        "reason": result.reason,
        "timings": asdict(result.timings),
    }


def _hit_image(hit: Hit, kind: Kind | None) -> str | None:
    path = None if kind == "text" else local_path(hit.uri)  # files elsewhere are not fetched
    return None if path is None else _thumbnail(path, EDGE)


def _query_image(query: Path | bytes) -> str:
    uri = _thumbnail(query, QUERY_EDGE)
    return f'<img src="{uri}" alt="The image that was searched with">' if uri else ""


def _thumbnail(source: Path | bytes, edge: int) -> str | None:
    if isinstance(source, Path) and not source.is_file():  # opening a pipe would block forever
        return None
    try:
        return _data_uri(thumbnail(source, edge), "image/jpeg")
    except (ImageError, OSError, ValueError):
        return None


def _data_uri(content: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode('ascii')}"


def _json(document: object) -> str:
    # Only `<` can end a script element or open a comment in it.
    return json.dumps(document, ensure_ascii=False, default=str).replace("<", "\\u003c")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"
