"""A search result as one HTML file: it works offline, shows both orders, and nothing in it is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from html import escape
from pathlib import Path

from milvus_coop.errors import ImageError
from milvus_coop.gallery.assets import assets, text
from milvus_coop.preprocess.thumbnails import thumbnail
from milvus_coop.search.pictures import local_path
from milvus_coop.types import CollectionInfo, Hit, Kind, SearchResult

EDGE = 480
"""Pixels of the longer edge of the pictures in the file, 20 to 40 kB each."""
QUERY_EDGE = 224


def render(result: SearchResult, query: str | Path | bytes, collection: CollectionInfo, *, limit: int, filter: str = "") -> str:
    """The page as text.

    Args:
        result: with all the candidates, best first, so that either order has its first `limit`.
        query: the text; or the path or the bytes of the picture.
        collection: that was searched.
        limit: how many hits of each order to show.
        filter: what the search was narrowed with.
    """
    asked = query if isinstance(query, str) else query.name if isinstance(query, Path) else "a picture"
    hits = [hit for hit in result.hits if hit.rank <= limit or hit.be_rank <= limit]
    document = {
        "collection": collection.name,
        "kind": collection.kind,
        "query": {"kind": "text" if isinstance(query, str) else "image", "text": query if isinstance(query, str) else None},
        "limit": limit,
        "hits": [asdict(hit) | {"thumbnail": _picture(hit, collection.kind)} for hit in hits],
        "reranked": result.reranked,
        "rescored": result.rescored,
        "candidates": result.candidates,
        "reason": result.reason,
        "timings": asdict(result.timings),
    }
    style, script = text("gallery.css"), text("grid.js") + text("saved.js")
    return "".join(_lines(f"{asked} · milvus-coop", style, script, _heading(asked, query, collection, filter, bool(hits)), document))


def _lines(title: str, style: str, script: str, heading: str, document: object) -> Iterator[str]:
    icon = _data_uri(assets()["icon.svg"].content, "image/svg+xml")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    guard = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{guard}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
    yield f'<meta name="referrer" content="no-referrer">\n<title>{escape(title)}</title>\n<link rel="icon" href="{icon}">\n'
    yield f"<style>{style}</style>\n</head>\n<body>\n"
    yield f'<header class="brand"><img src="{icon}" alt="" width="28" height="28"><h1>milvus-coop</h1></header>\n'
    yield f'{heading}<main id="results"></main>\n'
    yield "<noscript>The results need JavaScript, which is in this file; nothing is loaded.</noscript>\n"
    yield f'<script type="application/json" id="result">{_json(document)}</script>\n'
    yield f'<script type="module">{script}</script>\n</body>\n</html>\n'


def _heading(asked: str, query: str | Path | bytes, collection: CollectionInfo, filter: str, found: bool) -> str:
    picture = "" if isinstance(query, str) else _query_picture(query)
    title = f"“{asked}”" if isinstance(query, str) else asked
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    facts = [f"{collection.name}, {collection.count:,} items", collection.bundle, f"filter {filter}" if filter else "", when]
    lines = f'<h2><bdi>{escape(title)}</bdi></h2><p class="soft">{escape(" · ".join(fact for fact in facts if fact))}</p>'
    if not found:
        lines += "<p>Nothing was found.</p>"
    return f'<section class="asked">{picture}<div>{lines}</div></section>\n'


def _picture(hit: Hit, kind: Kind | None) -> str | None:
    path = None if kind == "text" else local_path(hit.uri)  # whatever is elsewhere is not fetched
    return None if path is None else _thumbnail(path, EDGE)


def _query_picture(query: Path | bytes) -> str:
    uri = _thumbnail(query, QUERY_EDGE)
    return f'<img src="{uri}" alt="The picture that was searched with">' if uri else ""


def _thumbnail(source: Path | bytes, edge: int) -> str | None:
    if isinstance(source, Path) and not source.is_file():  # opening a pipe would wait for ever
        return None
    try:
        return _data_uri(thumbnail(source, edge), "image/jpeg")
    except (ImageError, OSError, ValueError):
        return None


def _data_uri(content: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode('ascii')}"


def _json(document: object) -> str:
    # In a script element only `<` can end it or open a comment.
    return json.dumps(document, ensure_ascii=False, default=str).replace("<", "\\u003c")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"
