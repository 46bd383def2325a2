"""`POST /v1/items`."""

from __future__ import annotations

import json
import re
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from milvus_coop.errors import InvalidArgumentError, MilvusCoopError, reason_of
from milvus_coop.serving.gateway.bodies import media_type
from milvus_coop.serving.gateway.facts import facts_of
from milvus_coop.serving.gateway.key_filters import fixed_metadata, named_fields
from milvus_coop.serving.gateway.problems import RefusedError, problems
from milvus_coop.serving.gateway.routes.search import FORM
from milvus_coop.serving.gateway.schemas import UploadResponse
from milvus_coop.serving.gateway.service import Service
from milvus_coop.serving.gateway.uploads import Tenant, Upload, ingest_uploads
from milvus_coop.store.metadata import DEEPEST

NOT_JSON = "the metadata is not JSON"
_SIGN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[\[\]{},]', re.DOTALL)
"""A string, or a sign that structures JSON."""
FORM_FIELDS = 16
MAX_PARTS = 1000
"""Minimum number of files at which the parser gives up. Below it, errors report the option `max_files`."""

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
                            "description": "A JSON object with metadata for all files, or a list with one object or null for each.",
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
    """The route for a service."""
    routes = APIRouter(tags=["items"])
    guarded = named_fields(service.options.filters().values())

    def tenant_of(filter: str) -> Tenant | None:
        fixed = fixed_metadata(filter)
        if filter and fixed is None:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "this API key has a filter that does not say what metadata an upload gets, so it may only read",
                expected="a filter such as tenant == 'a', or a key that sees whole collections",
            )
        return Tenant(filter, fixed, guarded) if fixed else None

    @routes.post(
        "/v1/items",
        response_model=UploadResponse,
        responses=problems(400, 403, 404, 409, 413, 415, 502, 503, 504, 507),
        openapi_extra=UPLOAD_BODY,
        summary="Upload images into a collection",
    )
    async def upload(request: Request) -> UploadResponse:
        """Keep images and ingest them into a collection, as `milvus-coop ingest` does.

        Images that cannot be read, and images with metadata that cannot be stored, are listed in `failures`; the others are
        ingested. If no image can be used, the answer is an error.
        """
        if (kind := media_type(request)) != FORM:
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body is of type '{kind}'", expected=FORM)
        if not service.options.uploads:
            raise RefusedError(HTTPStatus.FORBIDDEN, "this service takes no uploads", run="milvus-coop serve --uploads FOLDER")
        tenant = tenant_of(facts_of(request).filter)
        max_files = max(MAX_PARTS, service.options.max_files + 1)
        # No part can be larger than the body, whose limit the service has checked.
        async with request.form(max_files=max_files, max_fields=FORM_FIELDS, max_part_size=sys.maxsize) as form:
            uploads, name = await _uploads_of(form, service.options.max_files)
        done = await service.run_upload(lambda: _run(service, uploads, name or service.settings.collection, tenant))
        facts_of(request).logged.update(collection=done.collection, added=done.added, updated=done.updated, failed=done.failed)
        return done

    return routes


def _run(service: Service, uploads: list[Upload], collection: str, tenant: Tenant | None) -> UploadResponse:
    try:
        report, items, failures = ingest_uploads(
            uploads, Path(service.options.uploads), collection, service.store(), service.models, tenant
        )
    except MilvusCoopError:  # some of them are OSErrors too
        raise
    except OSError as exc:
        raise RefusedError(
            HTTPStatus.INSUFFICIENT_STORAGE,
            f"the uploads cannot be kept: {reason_of(exc)}",
            expected="room, file descriptors and permissions for the service's folder of uploads",
        ) from exc
    service.metrics.ingested(report)
    if not items:
        reasons = "; ".join(f"{failure.file}: {failure.reason}" for failure in failures[:5])
        raise InvalidArgumentError(f"none of the {len(failures)} images can be used: {reasons}")
    return UploadResponse(
        collection=collection,
        added=report.added,
        updated=report.updated,
        unchanged=report.unchanged,
        failed=len(failures),
        items=items,
        failures=failures,
        seconds=report.seconds,
    )


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
    metadata = await run_in_threadpool(_metadata_of, str(others.get("metadata", "")), len(files))
    contents = [await file.read() for file in files]
    uploads = [Upload(f.filename or "", c, m, why) for f, c, (m, why) in zip(files, contents, metadata, strict=True)]
    return uploads, str(others.get("collection", ""))


def _metadata_of(text: str, n: int) -> list[tuple[Any, str]]:
    """The metadata of each of n files, and the reason why it cannot be decoded, or ''. What it holds is checked later."""
    expected = "a JSON object, or a list with one object for each file"
    given, problem = _decoded(text) if text.strip() else (None, "")
    each = [(value, problem) for value in given] if isinstance(given, list) else [(given, problem)] * n
    if problem and text.lstrip().startswith("["):
        each = [_decoded(part) for part in _parts(text)]
    elif problem == NOT_JSON:
        raise InvalidArgumentError(f"the field 'metadata': {problem}", expected=expected)
    elif not isinstance(given, (dict, list)) and given is not None:
        raise InvalidArgumentError("the field 'metadata' is neither an object nor a list", expected=expected)
    if len(each) != n:
        raise InvalidArgumentError(f"the field 'metadata' has {len(each):,} entries for {n:,} files", expected=expected)
    return each


def _decoded(text: str) -> tuple[Any, str]:
    try:
        return json.loads(text), ""
    except RecursionError:
        return None, f"the metadata is nested too deeply; expected: at most {DEEPEST} levels"
    except ValueError:
        return None, NOT_JSON


def _parts(text: str) -> list[str]:
    """The texts of the entries of a JSON list that cannot be decoded as a whole, so that only the broken ones are refused.

    Raises:
        InvalidArgumentError: the text is not a list.
    """
    parts: list[str] = []
    depth = start = 0
    for found in _SIGN.finditer(text):
        sign = found[0]
        depth += (sign in ("[", "{")) - (sign in ("]", "}"))
        if depth == 1 and sign == "[" and not start:
            start = found.end()
        elif depth <= 1 and sign in (",", "]") and (depth == 0 or sign == ","):
            parts.append(text[start : found.start()])
            start = found.end()
        if depth == 0:
            break
    if depth or text[start:].strip():
        raise InvalidArgumentError(f"the field 'metadata': {NOT_JSON}", expected="a JSON object, or a list of them")
    return parts
