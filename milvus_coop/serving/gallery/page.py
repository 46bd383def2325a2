"""A search result as one HTML file. It works offline, shows both orders, and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from string import Template
from typing import IO, Any

from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.roots import SHOWN_AT_ONCE, below_root
from milvus_coop.errors import ImageError
from milvus_coop.models.preprocess.images import MAX_PIXELS
from milvus_coop.models.preprocess.thumbnails import thumbnail
from milvus_coop.models.preprocess.uris import local_path
from milvus_coop.serving.gallery.assets import assets, text
from milvus_coop.types import CollectionInfo, Hit, SearchResult

EDGE = 480
"""Length of the longer edge of the images in the file, in pixels; each image takes 20 to 40 kB."""
QUERY_EDGE = 224
READ_S = 60.0
"""Time limit of reading all images of a page from object stores."""
POLICY = "default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'"
"""Content security policy: nothing is loaded, and no script in a text or in metadata can run."""


def render(
    result: SearchResult,
    query: str | Path | bytes,
    collection: CollectionInfo,
    *,
    limit: int,
    filter: str = "",
    prefixes: Sequence[RemoteFile] = (),
    name: str = "",
    max_pixels: int = MAX_PIXELS,
) -> str:
    """The HTML text of the page.

    Args:
        result: the result with all candidates, best first, so that each order has its first `limit` hits.
        query: the text, or the path or the bytes of the image.
        collection: the collection that was searched.
        limit: number of hits to show in each order.
        filter: the filter of the search.
        prefixes: prefixes of object stores whose images may be read, in at most 60 s for all images. Images elsewhere are not.
        name: the name of an image that is given as bytes.
        max_pixels: see `decode`.
    """
    hits = [hit for hit in result.hits if hit.rank <= limit or hit.be_rank <= limit]
    style, script = text("gallery.css"), text("grid.js") + text("saved.js")
    asked = f"“{query}”" if isinstance(query, str) else query.name if isinstance(query, Path) else name or "an image"
    return Template(text("saved.html")).substitute(
        policy=POLICY.format(script=_hash(script), style=_hash(style)),
        title=escape(f"{asked} · milvus-coop"),
        icon=_data_uri(assets()["icon.svg"].content, "image/svg+xml"),
        style=style,
        image="" if isinstance(query, str) else _query_image(query, max_pixels),
        asked=escape(asked),
        facts=escape(_facts(collection, filter)),
        nothing="" if hits else "<p>Nothing was found.</p>",
        document=_json(_document(result, query, collection, hits, limit, prefixes, max_pixels)),
        script=script,
    )


def _facts(collection: CollectionInfo, filter: str) -> str:
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    facts = [f"{collection.name}, {collection.count:,} items", collection.bundle, f"filter {filter}" if filter else "", when]
    return " · ".join(fact for fact in facts if fact)


def _document(
    result: SearchResult,
    query: str | Path | bytes,
    collection: CollectionInfo,
    hits: list[Hit],
    limit: int,
    prefixes: Sequence[RemoteFile],
    max_pixels: int,
) -> dict[str, Any]:
    """The result in the form of the HTTP API, with the images and the limit."""
    images = _hit_images(hits, prefixes, max_pixels) if collection.kind != "text" else [None] * len(hits)
    return {
        "collection": collection.name,
        "kind": collection.kind,
        "query": {"kind": "text", "text": query} if isinstance(query, str) else {"kind": "image", "text": None},
        "limit": limit,
        "hits": [asdict(hit) | {"thumbnail": image} for hit, image in zip(hits, images, strict=True)],
        "reranked": result.reranked,
        "reranked_count": result.reranked_count,
        "candidates": result.candidates,
        "reason": result.reason,
        "timings": asdict(result.timings),
    }


def _hit_images(hits: Sequence[Hit], prefixes: Sequence[RemoteFile], max_pixels: int) -> list[str | None]:
    """The thumbnails of the hits; None for an image that cannot be read, or not in time."""
    pool = ThreadPoolExecutor(SHOWN_AT_ONCE, "milvus-coop-page")
    try:
        futures = [_hit_image(hit, prefixes, pool, max_pixels) for hit in hits]
        done = wait(futures, READ_S).done
        return [future.result() if future in done else None for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _hit_image(hit: Hit, prefixes: Sequence[RemoteFile], pool: ThreadPoolExecutor, max_pixels: int) -> Future[str | None]:
    if (path := local_path(hit.uri)) is not None:
        shown: Future[str | None] = Future()
        shown.set_result(_thumbnail(path, EDGE, max_pixels))
        return shown
    files = [file for prefix in prefixes if (file := below_root(prefix, hit.uri)) is not None]
    return pool.submit(lambda: next(filter(None, (_remote_thumbnail(file, max_pixels) for file in files)), None))


def _remote_thumbnail(file: RemoteFile, max_pixels: int) -> str | None:
    try:
        with file.open() as opened:
            return _thumbnail(opened, EDGE, max_pixels)
    except OSError:
        return None


def _query_image(query: Path | bytes, max_pixels: int) -> str:
    uri = _thumbnail(query, QUERY_EDGE, max_pixels)
    return f'<img src="{uri}" alt="The image that was searched with">' if uri else ""


def _thumbnail(source: Path | bytes | IO[bytes], edge: int, max_pixels: int) -> str | None:
    if isinstance(source, Path) and not source.is_file():  # opening a pipe would block forever
        return None
    try:
        return _data_uri(thumbnail(source, edge, max_pixels=max_pixels), "image/jpeg")
    except (ImageError, OSError, ValueError):
        return None


def _data_uri(content: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode('ascii')}"


def _json(document: object) -> str:
    # Only `<` can end a script element or open a comment in it.
    return json.dumps(document, ensure_ascii=False, default=str).replace("<", "\\u003c")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"
