"""`GET /` and `/gallery/<name>`: the search page."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from milvus_coop.serving.gallery import PAGE, Asset, assets
from milvus_coop.serving.gateway.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: nothing from elsewhere and no inline scripts, so that scripts in texts or metadata cannot run."""


def router(service: Service) -> APIRouter:
    """A route for each file of the page. The page is the same for every service."""
    routes = APIRouter(include_in_schema=False)
    for name, asset in assets().items():
        routes.add_api_route("/" if name == PAGE else f"/gallery/{name}", _answer(asset), methods=["GET", "HEAD"])
    return routes


def _answer(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(asset.content).hexdigest()[:32]}"'
    headers = {"content-security-policy": POLICY, "cache-control": "no-cache", "etag": tag}

    async def answer(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.content_type)

    return answer
