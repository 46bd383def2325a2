"""Uploaded images. They are kept as files whose names are hashes of their content, and ingested like other images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_coop.config import Settings
from milvus_coop.errors import ImageError
from milvus_coop.ingest import CoopIngest
from milvus_coop.ingest.items import Item
from milvus_coop.models.backends import Backend
from milvus_coop.models.preprocess.formats import open_image
from milvus_coop.serving.gateway.schemas import UploadedItem, UploadFailure
from milvus_coop.serving.gateway.thumbnails import thumbnail_of
from milvus_coop.store.schema import check_name
from milvus_coop.types import Failure, IngestReport

SUFFIXES = {
    **{"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"},
    **{"AVIF": ".avif", "HEIF": ".heic"},
}
SHOWN_NAME = 200
"""Maximum number of characters of a client's file name that an answer repeats."""
NOTHING = IngestReport(0, 0, 0, 0, (), 0.0)


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file."""

    name: str
    """The client's name for the file; never used as a path."""
    content: bytes
    metadata: Mapping[str, Any]


def ingest_uploads(
    uploads: Sequence[Upload], folder: Path, settings: Settings, backend: Backend
) -> tuple[IngestReport, list[UploadedItem], list[UploadFailure]]:
    """Keep images in `folder/COLLECTION` and ingest them into the collection, which is created if it does not exist.

    An image that is uploaded again is the same item; its metadata is updated.

    Raises:
        StoreError, BackendError: Milvus or the encoder failed; the call may be repeated.
        OSError: a file cannot be written.
    """
    with CoopIngest(settings=settings, models=backend) as ingester:  # opened first, so that a failure leaves no files behind
        kept, new, failures = _keep(uploads, folder.resolve() / check_name(settings.collection))
        try:
            report = _ingest(ingester, kept) if kept else NOTHING
        except BaseException:
            _remove(new)
            raise
    refused = {_path_of(failure, list(kept)): failure.reason for failure in report.failures}
    _remove(new & set(refused))
    failures += [UploadFailure(file=_shown(kept[uri]), reason=reason) for uri, reason in refused.items()]
    stored = {Item(uri).id: (uri, upload) for uri, upload in kept.items() if uri not in refused}
    items = [
        UploadedItem(file=_shown(upload), id=key, uri=uri, thumbnail=thumbnail_of(settings.collection, key))
        for key, (uri, upload) in stored.items()
    ]
    return report, items, failures


def _keep(uploads: Sequence[Upload], place: Path) -> tuple[dict[str, Upload], set[str], list[UploadFailure]]:
    """Write the files of uploads. If two images are equal, the last upload counts.

    Returns:
        The uploads by path, the paths that are new, and the failures of files that are not images.
    """
    kept: dict[str, Upload] = {}
    new: set[str] = set()
    failures: list[UploadFailure] = []
    for upload in uploads:
        try:
            path = place / _file_name(upload.content)
        except ImageError as exc:
            failures.append(UploadFailure(file=_shown(upload), reason=str(exc)))
            continue
        if not path.exists():
            _write(path, upload.content)
            new.add(path.as_posix())
        kept[path.as_posix()] = upload
    return kept, new, failures


def _remove(paths: Set[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _shown(upload: Upload) -> str:
    return upload.name[:SHOWN_NAME]


def _file_name(content: bytes) -> str:
    """The name under which a file is kept: a hash of its content, and the suffix of its format."""
    with io.BytesIO(content) as file, open_image(file) as image:
        suffix = SUFFIXES[str(image.format).upper()]
    return hashlib.sha256(content).hexdigest()[:32] + suffix


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".upload-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            os.unlink(file.name)  # noqa: PTH108
            raise


def _ingest(ingester: CoopIngest, kept: Mapping[str, Upload]) -> IngestReport:
    with tempfile.TemporaryDirectory(prefix="milvus-coop-upload-") as scratch:
        listed = Path(scratch, "list.jsonl")
        lines = (json.dumps({**upload.metadata, "path": path}) + "\n" for path, upload in kept.items())
        listed.write_text("".join(lines), encoding="utf-8")
        return ingester.run([listed])


def _path_of(failure: Failure, paths: Sequence[str]) -> str:
    """The path of the image that failed. A failure names its uri, or its line in the list."""
    return failure.uri if failure.uri in paths else paths[int(failure.uri.rpartition(":")[2]) - 1]
