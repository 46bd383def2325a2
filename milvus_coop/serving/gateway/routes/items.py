"""`POST /v1/items` and `GET /v1/items/{id}/thumbnail`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as PathParameter
from starlette.datastructures import FormData, UploadFile

from milvus_coop.errors import ImageError, InvalidArgumentError
from milvus_coop.serving.gateway.bodies import media_type
from milvus_coop.serving.gateway.problems import RefusedError, problems
from milvus_coop.serving.gateway.routes.search import FORM
from milvus_coop.serving.gateway.schemas import CollectionName, UploadResponse
from milvus_coop.serving.gateway.service import Service
from milvus_coop.serving.gateway.thumbnails import Original, Thumbnails
from milvus_coop.serving.gateway.uploads import Upload, ingest_uploads

EDGES = (32, 2048)
"""Minimum and maximum length of a thumbnail's longer edge, in pixels."""
KEEP_S = 300
"""Time for which a browser may show a thumbnail without a new request."""

MOST_PARTS = 1000
"""Maximum number of files that the parser accepts. Errors report the option `max_files`."""

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                            "description": "Images: JPEG, PNG, WebP, GIF, BMP or TIFF.",
                        },
                        "metadata": {
                            "type": "string",
                            "description": "A JSON object with metadata for all files, or a list with one object for each file.",
                            "examples": ['{"year": 2024}'],
                        },
                        "collection": {"type": "string", "description": "Name of the collection; created if it does not exist."},
                    },
                },
                # This makes clients send a list of files as several parts with the same name, and not as one part.
                "encoding": {"files": {"contentType": "application/octet-stream"}},
            }
        },
    }
}


def router(service: Service) -> APIRouter:
    """The routes for a service."""
    routes = APIRouter(tags=["items"])
    thumbnails = Thumbnails(service.options.folders())

    @routes.post(
        "/v1/items",
        response_model=UploadResponse,
        responses=problems(400, 403, 409, 413, 415, 502, 503, 504),
        openapi_extra=UPLOAD_BODY,
        summary="Upload images into a collection",
    )
    async def upload(request: Request, form: Annotated[FormData, Depends(read_form)]) -> UploadResponse:
        """Keep images and ingest them into a collection, as `milvus-coop ingest` does.

        Images that cannot be read are listed in `failures`; the others are ingested. If no image can be used, the answer is an
        error.
        """
        folder = service.options.uploads
        if not folder:
            raise RefusedError(HTTPStatus.FORBIDDEN, "this service takes no uploads", run="milvus-coop serve --uploads FOLDER")
        uploads, name = await _uploads_of(form, service.options.max_files)
        settings = service.settings.override(collection=name or service.settings.collection)

        def run() -> UploadResponse:
            report, items, failures = ingest_uploads(uploads, Path(folder), settings, service.models.backend)
            service.metrics.ingested(report)
            if not items:
                reasons = "; ".join(f"{failure.file}: {failure.reason}" for failure in failures[:5])
                raise InvalidArgumentError(f"none of the {len(failures)} images can be used: {reasons}")
            return UploadResponse(
                collection=settings.collection,
                added=report.added,
                updated=report.updated,
                unchanged=report.unchanged,
                failed=len(failures),
                items=items,
                failures=failures,
                seconds=report.seconds,
            )

        done = await service.run_upload(run)
        request.scope["facts"].update(collection=done.collection, added=done.added, updated=done.updated, failed=done.failed)
        return done

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
        """A JPEG thumbnail of an item of an image collection, if its file is in a folder that the service may show."""
        known = request.headers.get("if-none-match", "")

        def find() -> Original:
            uri = service.search(collection, lambda searcher: searcher.uris([id]) if searcher.kind == "image" else {}).get(id)
            original = None if uri is None else thumbnails.original(uri)
            if original is None:
                # The answer is the same for all reasons, so that it does not reveal which files exist.
                raise RefusedError(
                    HTTPStatus.NOT_FOUND,
                    "there is no image to show for this item",
                    expected="an item of an image collection whose file is below one of the service's roots",
                    run="milvus-coop serve --root FOLDER",
                )
            return original

        def run() -> tuple[str, bytes | None]:
            original = find()
            tag = original.etag(size)
            try:
                return tag, None if tag in known else thumbnails.make(original, size)
            except ImageError as exc:
                raise RefusedError(HTTPStatus.NOT_FOUND, "the image can no longer be read") from exc

        tag, content = await service.run(run)
        headers = {"etag": tag, "cache-control": f"private, max-age={KEEP_S}"}
        return Response(status_code=304, headers=headers) if content is None else Response(content, 200, headers, "image/jpeg")

    return routes


async def read_form(request: Request) -> AsyncIterator[FormData]:
    """The form of an upload. Its files are closed at the end of the request.

    Raises:
        RefusedError: the body has another media type.
    """
    kind = media_type(request)
    if kind != FORM:
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body is of type '{kind}'", expected=FORM)
    async with request.form(max_files=MOST_PARTS, max_fields=16) as form:
        yield form


async def _uploads_of(form: FormData, max_files: int) -> tuple[list[Upload], str]:
    """The files of a form with their metadata, and the collection that it names, or ''."""
    files = [value for name, value in form.multi_items() if name == "files" and isinstance(value, UploadFile)]
    others = {name: value for name, value in form.multi_items() if name != "files"}
    if not 1 <= len(files) <= max_files:
        raise InvalidArgumentError(f"the form has {len(files)} files", expected=f"1 to {max_files} files, each named 'files'")
    if odd := sorted(set(others) - {"metadata", "collection"}):
        raise InvalidArgumentError(f"the form has a field '{odd[0][:64]}'", expected="files, metadata, collection")
    if any(isinstance(value, UploadFile) for value in others.values()):
        raise InvalidArgumentError("metadata or collection is a file", expected="a text")
    metadata = _metadata_of(str(others.get("metadata", "")), len(files))
    contents = [await file.read() for file in files]
    uploads = [Upload(f.filename or "file", c, m) for f, c, m in zip(files, contents, metadata, strict=True)]
    return uploads, str(others.get("collection", ""))


def _metadata_of(text: str, n: int) -> list[dict[str, Any]]:
    """Metadata for each of n files."""
    expected = "a JSON object, or a list with one object for each file, without 'path' and 'uri'"
    try:
        given = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError("metadata is not JSON", expected=expected) from exc
    each = [given] * n if isinstance(given, dict) else given
    if not isinstance(each, list) or len(each) != n or any(not isinstance(m, dict) or {"path", "uri"} & set(m) for m in each):
        raise InvalidArgumentError("metadata does not fit the files", expected=expected)
    return each
