"""`GET /v1/items/{id}/thumbnail`."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter

from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.thumbnails import Original, Thumbnails
from milvus_coop.errors import ImageError
from milvus_coop.search import CoopSearch
from milvus_coop.serving.gateway.facts import facts_of
from milvus_coop.serving.gateway.problems import RefusedError, problems
from milvus_coop.serving.gateway.schemas import CollectionName
from milvus_coop.serving.gateway.service import Service

EDGES = (32, 2048)
"""Minimum and maximum length of a thumbnail's longer edge, in pixels."""
KEEP_S = 300
"""Time for which a browser may show a thumbnail without a new request."""
Answer = tuple[str, bytes | None]
"""The ETag of a thumbnail and its content; None if the client has it."""


def router(service: Service) -> APIRouter:
    """The route for a service."""
    routes = APIRouter(tags=["items"])
    thumbnails = Thumbnails(service.options.folders(), service.options.prefixes(), service.settings.max_pixels)

    @routes.get(
        "/v1/items/{id}/thumbnail",
        response_class=Response,
        responses={
            200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
            304: {"description": "The client already has this thumbnail."},
            **problems(400, 404, 409, 502, 503, 504),
        },
        summary="A thumbnail of an item",
    )
    async def thumbnail(
        request: Request,
        id: Annotated[str, PathParameter(max_length=64)],
        collection: Annotated[CollectionName | None, Query()] = None,
        size: Annotated[int, Query(ge=EDGES[0], le=EDGES[1], description="Maximum length of the longer edge, in pixels.")] = 320,
    ) -> Response:
        """A JPEG thumbnail of an item of an image collection, if its file is in a folder or prefix that the service may show."""
        known = request.headers.get("if-none-match", "")

        def answer(original: Original | None) -> Answer:
            if original is None:
                raise _no_image()
            tag = original.etag(size)
            try:
                return tag, None if tag in known else thumbnails.make(original, size)
            except ImageError as exc:
                raise RefusedError(HTTPStatus.NOT_FOUND, "the image can no longer be read") from exc

        def run() -> Answer | list[RemoteFile]:
            uri = _uri(service, collection, id, facts_of(request).filter)
            original = thumbnails.original(uri)
            if original is None and (files := thumbnails.elsewhere(uri)):
                return files
            return answer(original)

        found = await service.run(run)
        if isinstance(found, list):
            files = found
            found = await service.run_read(lambda: _from_stores(lambda: answer(thumbnails.remote_original(files))))
        tag, content = found
        headers = {"etag": tag, "cache-control": f"private, max-age={KEEP_S}", "vary": "Authorization"}
        return Response(status_code=304, headers=headers) if content is None else Response(content, 200, headers, "image/jpeg")

    return routes


def _uri(service: Service, collection: str | None, id: str, within: str) -> str:
    """The uri of an item.

    Raises:
        RefusedError: there is no such item, or it is no image.
    """

    def uri_of(searcher: CoopSearch) -> str | None:
        return searcher.uris([id]).get(id) if searcher.kind == "image" else None

    uri = service.search(collection, uri_of, within=within)
    if uri is None:
        raise _no_image()
    return uri


def _from_stores(action: Callable[[], Answer]) -> Answer:
    """The result of an action that reads from object stores.

    Raises:
        RefusedError: a store did not give the image.
    """
    try:
        return action()
    except (FileNotFoundError, PermissionError) as exc:
        raise _no_image() from exc
    except OSError as exc:
        late = isinstance(exc, TimeoutError)
        raise RefusedError(
            HTTPStatus.GATEWAY_TIMEOUT if late else HTTPStatus.BAD_GATEWAY,
            f"the object store did not {'answer in time' if late else 'give the image'}",
        ) from exc


def _no_image() -> RefusedError:
    """The answer is the same for all reasons, so that it does not reveal which files exist."""
    return RefusedError(
        HTTPStatus.NOT_FOUND,
        "there is no image to show for this item",
        expected="an item of an image collection whose file is below one of the service's roots",
        run="milvus-coop serve --root FOLDER",
    )
