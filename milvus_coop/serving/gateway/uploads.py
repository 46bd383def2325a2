"""Uploaded images. They are kept as files whose names are hashes of their content, and ingested like other images."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milvus_coop.errors import CollectionNotFoundError, ImageError, InvalidArgumentError
from milvus_coop.ingest import Item, ingest_items
from milvus_coop.ingest.items import hash_of_metadata
from milvus_coop.models.encoder import Encoder
from milvus_coop.models.open import Models
from milvus_coop.serving.gateway.schemas import UploadedItem, UploadFailure
from milvus_coop.serving.gateway.thumbnails import thumbnail_of
from milvus_coop.store import Collection, Store
from milvus_coop.store.metadata import plain_metadata
from milvus_coop.store.schema import VARCHAR_BYTES, check_name
from milvus_coop.types import IngestReport

SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}
"""Suffixes that differ from the name of the format."""
UPLOADED_AS = "uploaded_as"
"""Name of the metadata that holds the client's name of the file. Lists of images have other names for it, such as `file_name`."""
SHOWN_NAME = 200
"""Maximum number of characters of a client's file name that an answer repeats and the collection keeps."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file."""

    name: str
    """The client's name for the file; never used as a path. '' if the client gave none."""
    content: bytes
    metadata: Any = None
    """The metadata that the client sent for this file, decoded from JSON; None or {} if it sent none."""
    problem: str = ""
    """The reason why the metadata could not be decoded."""

    @property
    def shown(self) -> str:
        """The name in answers."""
        return self.name[:SHOWN_NAME] or "file"


@dataclass(frozen=True, slots=True)
class Tenant:
    """The caller of an upload whose key has a filter."""

    filter: str
    fixed: Mapping[str, Any]
    """The metadata that each of its items gets, so that the filter leaves it."""
    guarded: Set[str]
    """Names of metadata that filters of keys read, and that the upload may therefore not set."""

    @property
    def folder(self) -> str:
        """The name of its own folder of uploads. The same image of another tenant is another file there, and so another item."""
        return "tenant-" + hash_of_metadata(self.fixed)

    def refusal(self, metadata: Mapping[str, Any]) -> str:
        """The reason why it may not upload an image with this metadata; '' if it may."""
        for name, value in metadata.items():
            own = name in self.fixed and type(value) is type(self.fixed[name]) and value == self.fixed[name]
            if name in self.guarded and not own:
                return f"this API key may not set the metadata '{name[:SHOWN_NAME]}'"
        return ""


def ingest_uploads(
    uploads: Sequence[Upload], folder: Path, collection: str, store: Store, models: Models, tenant: Tenant | None = None
) -> tuple[IngestReport, list[UploadedItem], list[UploadFailure]]:
    """Keep images in `folder/COLLECTION` and ingest them into the collection, which is created if it does not exist.

    An image that is uploaded again is the same item. Its metadata stays, unless the upload has metadata, which replaces it.
    A tenant's images have a folder of their own in there, and it cannot create a collection.

    Raises:
        CollectionNotFoundError: there is no such collection, and the caller is a tenant.
        StoreError, BackendError: Milvus or the encoder failed; the call may be repeated.
        OSError: a file cannot be written.
    """
    start = time.monotonic()
    place = folder.resolve() / check_name(collection) / (tenant.folder if tenant else "")
    opened = store.open_if_there(collection, models.encoder.spec, "image")  # first, so that a failure leaves no files behind
    if tenant and opened is None:
        raise CollectionNotFoundError(
            f"there is no collection '{collection}'", expected="one that exists, because this API key cannot create one"
        )
    kept, failures = _check(uploads, place, models.encoder, tenant)
    if tenant and opened:
        failures += _drop_foreign(kept, opened, tenant)
    if not kept:
        return IngestReport(0, 0, 0, 0, (), time.monotonic() - start), [], failures
    new = _write_new(kept)
    try:
        opened = opened or store.open_or_create(collection, models.encoder.spec, "image")
        report = ingest_items(_items(kept, opened, tenant), sink=opened, encoder=models.encoder, tokens=opened.tokens)
        opened.flush()
    except BaseException:
        _remove(new)
        raise
    refused = {failure.uri: failure.reason for failure in report.failures}
    _remove({path for path in new if path.as_posix() in refused})
    failures += [UploadFailure(file=kept[Path(uri)].shown, reason=reason) for uri, reason in refused.items()]
    stored = [(path, upload, Item(path.as_posix()).id) for path, upload in kept.items() if path.as_posix() not in refused]
    items = [
        UploadedItem(file=upload.shown, id=key, uri=path.as_posix(), thumbnail=thumbnail_of(collection, key))
        for path, upload, key in stored
    ]
    return report, items, failures


def _check(
    uploads: Sequence[Upload], place: Path, encoder: Encoder, tenant: Tenant | None
) -> tuple[dict[Path, Upload], list[UploadFailure]]:
    """The uploads that can be kept, by path, and the failures of the others.

    If two images are equal, the last one that has metadata counts.
    """
    kept: dict[Path, Upload] = {}
    failures: list[UploadFailure] = []
    for upload in uploads:
        try:
            path = place / _file_name(upload.content, encoder)
            _check_metadata(upload, tenant)
        except (ImageError, InvalidArgumentError) as exc:
            failures.append(UploadFailure(file=upload.shown, reason=str(exc)))
            continue
        if upload.metadata or path not in kept:
            kept[path] = upload
    return kept, failures


def _drop_foreign(kept: dict[Path, Upload], collection: Collection, tenant: Tenant) -> list[UploadFailure]:
    """Remove the uploads that would replace an item which the tenant does not see, and return their failures.

    Such an item has the uri of the tenant's file, because somebody else ingested that file or changed the item's metadata.
    """
    ids = {Item(path.as_posix()).id: path for path in kept}
    foreign = set(collection.stamps(list(ids))) - set(collection.within(tenant.filter).stamps(list(ids)))
    return [
        UploadFailure(file=kept.pop(ids[id]).shown, reason="an item that this API key does not see has this id")
        for id in sorted(foreign)
    ]


def _check_metadata(upload: Upload, tenant: Tenant | None) -> None:
    """Check that the collection can hold the metadata of an upload, and that the caller may set it.

    Raises:
        InvalidArgumentError: it cannot.
    """
    if upload.problem:
        raise InvalidArgumentError(upload.problem)
    if upload.metadata is None:
        return
    if not isinstance(upload.metadata, dict):
        raise InvalidArgumentError(f"the metadata is of type {type(upload.metadata).__name__}", expected="a JSON object")
    if "path" in upload.metadata:
        raise InvalidArgumentError("the name 'path' is taken, because lists of images use it", expected="another name")
    plain_metadata(upload.metadata)
    if tenant:
        if problem := tenant.refusal(upload.metadata):
            raise InvalidArgumentError(problem, expected="metadata that no filter of a key reads")
        plain_metadata({**upload.metadata, **tenant.fixed})


def _items(kept: dict[Path, Upload], collection: Collection, tenant: Tenant | None) -> list[Item]:
    """The items to ingest. The metadata of a known item is None, which leaves it as it is, if the upload has no metadata."""
    known = collection.stamps([Item(path.as_posix()).id for path in kept])
    items = []
    for path, upload in kept.items():
        item = Item(path.as_posix(), path)
        if upload.metadata or item.id not in known:
            item = Item(path.as_posix(), path, metadata=_with_name(upload, tenant))
        items.append(item)
    return items


def _with_name(upload: Upload, tenant: Tenant | None) -> dict[str, Any]:
    """The metadata of an upload with that of its key, and with the client's name of the file if there is room for it.

    The name is left out if the metadata has that field, or if a filter of a key reads it.
    """
    given = {name: value for name, value in (upload.metadata or {}).items() if value is not None}
    given |= tenant.fixed if tenant else {}
    nameless = not upload.name or (tenant is not None and UPLOADED_AS in tenant.guarded)
    named = given if nameless else {UPLOADED_AS: upload.name[:SHOWN_NAME], **given}
    return named if plain_metadata(given)[1] + len(UPLOADED_AS) + 6 * SHOWN_NAME < VARCHAR_BYTES else given


def _file_name(content: bytes, encoder: Encoder) -> str:
    """The name under which a file is kept: a hash of its content, and the suffix of its format."""
    kind = encoder.format_of(content)
    return hashlib.sha256(content).hexdigest()[:32] + SUFFIXES.get(kind, f".{kind.lower()}")


def _write_new(kept: dict[Path, Upload]) -> set[Path]:
    """Write the files that do not exist yet, and return their paths."""
    new: set[Path] = set()
    for path, upload in kept.items():
        if not path.exists():
            try:
                _write(path, upload.content)
            except BaseException:
                _remove(new)
                raise
            new.add(path)
    return new


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


def _remove(paths: Set[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
