"""Rows from a collection to a folder of Parquet files, and from such a folder to a collection."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.errors import CollectionExistsError, InvalidArgumentError, SourceError, StoreError
from milvus_coop.store.collection import Collection
from milvus_coop.store.row_folder import PART_BYTES, Manifest, RowFolder
from milvus_coop.store.schema import DEFAULTS, CollectionOptions
from milvus_coop.store.store import Store
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Failure, IngestReport, Row, Stamp, TokenFile

LOOKUP = 2000
"""Number of rows whose stamps are compared at a time."""
DELETE = 1000

OnRows = Callable[[int, int], None]
"""Gets the number of rows that are done, and the number of all rows."""


def export_rows(
    store: Store, name: str, out: str, *, part_bytes: int = PART_BYTES, on_progress: OnRows | None = None
) -> IngestReport:
    """Bring a folder of rows up to date with a collection, token files included. Safe to repeat, even after it was killed.

    Args:
        store: the connection.
        name: name of the collection.
        out: a local folder, or s3://, gs://, az://, ...
        part_bytes: size of the rows of one file.
        on_progress: a function that is called after each page of rows.

    Returns:
        The counts. Rows whose token file is missing have failed. `removed` counts rows that the collection no longer has.

    Raises:
        CollectionNotFoundError, ForeignCollectionError: the collection cannot be used.
        BundleMismatchError, CollectionExistsError, SourceError: the folder holds other rows, or is damaged.
        StoreError: Milvus or the folder failed.
    """
    start = time.monotonic()
    collection = store.open(name)
    header = collection.own_header()
    folder = RowFolder.to_write(out, collection.layout, header.bundle, header.fingerprint, part_bytes)
    total = collection.count()
    copy = _Copy(folder, collection.tokens, folder.tokens)
    for page in collection.all_rows():
        copy.take(page)
        if on_progress is not None:
            on_progress(len(copy.seen), total)
    folder.settle()
    gone = [id for id, _ in folder.all_stamps() if id not in copy.seen]
    for i in range(0, len(gone), DELETE):
        folder.delete(gone[i : i + DELETE])
    return copy.report(len(gone), time.monotonic() - start)


def load_rows(
    store: Store,
    source: str,
    name: str,
    spec: BundleSpec,
    *,
    options: CollectionOptions = DEFAULTS,
    bulk_import: str | None = None,
    on_progress: OnRows | None = None,
) -> IngestReport:
    """Write the rows of a folder into a collection, token files included. Safe to repeat, even after it was killed.

    Rows that the collection has already, with the same stamp, are skipped.

    Args:
        store: the connection.
        source: a folder that `export_rows` or an ingest made.
        name: name of the collection. If there is none, it is created.
        spec: the bundle that the collection is used with.
        options: options of a new collection. The partition key is that of the folder if none is given.
        bulk_import: let the server read the files itself. This is the path of the folder within the server's own storage.
        on_progress: a function that is called after each 2,000 rows, or after each file that the server has read.

    Returns:
        The counts. Rows whose token file is missing, and rows without the collection's partition key, have failed.

    Raises:
        SourceError: there are no rows, or a file is damaged.
        BundleMismatchError: the rows or the collection were made with another bundle.
        CollectionExistsError: the collection holds another kind of items; or, for a bulk import, it has rows.
        InvalidArgumentError: this Milvus has no bulk import.
        StoreError: Milvus or the folder failed.
    """
    start = time.monotonic()
    folder, collection = _opened(store, source, name, spec, options)
    if bulk_import is not None:
        return _import(store, folder, collection, bulk_import, start, on_progress)
    copy = _Copy(collection, folder.tokens, collection.tokens)
    for part in folder.manifest.parts:
        rows = folder.read(part, collection.layout)
        for i in range(0, len(rows), LOOKUP):
            copy.take(rows[i : i + LOOKUP])
            if on_progress is not None:
                on_progress(len(copy.seen), folder.manifest.rows)
    collection.settle()
    collection.flush()
    return copy.report(0, time.monotonic() - start)


def _opened(store: Store, source: str, name: str, spec: BundleSpec, options: CollectionOptions) -> tuple[RowFolder, Collection]:
    """A folder with rows, and the collection that they are for."""
    files, manifest = RowFolder.find(source)
    if manifest is None:
        raise SourceError(
            f"there are no rows in {files.location}",
            expected="a folder that milvus-coop ingest --sink parquet or collections export wrote",
        )
    manifest.check_bundle(spec.label, spec.fingerprint, str(files.location))
    if not options.partition_key and manifest.partition_key:
        options = options.with_key(manifest.partition_key, manifest.partition_key_type)
    collection = store.open_or_create(name, spec, manifest.kind, options=options)
    return RowFolder(files, manifest, collection.layout), collection


class _Copy:
    """Writes rows into a target that lacks them, after their token files, and counts."""

    def __init__(self, target: Collection | RowFolder, tokens: TokenStore | None, to: TokenStore | None) -> None:
        self._target = target
        self._tokens, self._to = tokens, to
        self.seen: set[str] = set()
        self._added = self._updated = self._unchanged = 0
        self._failures: list[Failure] = []

    def take(self, rows: Sequence[Row]) -> None:
        self.seen |= {row.id for row in rows}
        known = self._target.stamps([row.id for row in rows])
        wanted = [row for row in rows if known.get(row.id) != Stamp(row.uri, row.digest, row.size, row.mtime_ns)]
        self._unchanged += len(rows) - len(wanted)
        wanted = self._with_tokens([row for row in wanted if not self._refused(row)])
        new = [row for row in wanted if row.id not in known]
        changed = [row for row in wanted if row.id in known]
        if new:
            self._target.insert(new)
        if changed:
            self._target.upsert(changed)
        self._added += len(new)
        self._updated += len(changed)

    def report(self, removed: int, seconds: float) -> IngestReport:
        return IngestReport(self._added, self._updated, self._unchanged, removed, tuple(self._failures), seconds)

    def _refused(self, row: Row) -> bool:
        if reason := self._target.refusal(row.metadata):
            self._failures.append(Failure(row.uri, reason))
        return bool(reason)

    def _with_tokens(self, rows: list[Row]) -> list[Row]:
        """The rows whose token files, if there are any, are in the target now."""
        if self._tokens is None or self._to is None:
            return rows
        missing = set(self._tokens.copy([row.content.key for row in rows if isinstance(row.content, TokenFile)], self._to))
        lacking = [row for row in rows if isinstance(row.content, TokenFile) and row.content.key in missing]
        self._failures += [Failure(row.uri, "its token file is missing") for row in lacking]
        return [row for row in rows if row not in lacking] if lacking else rows


def _import(
    store: Store, folder: RowFolder, collection: Collection, prefix: str, start: float, on_progress: OnRows | None
) -> IngestReport:
    """Let the server import the files, then copy the token files."""
    manifest = folder.manifest
    if Manifest.of(collection.layout, "", "").partition_key != manifest.partition_key:
        raise InvalidArgumentError(
            f"the collection '{collection.name}' and the files in {folder.location} have different partition keys",
            expected="the same one, for a bulk import",
            run="milvus-coop load without --bulk-import",
        )
    if n := collection.count():
        raise CollectionExistsError(
            f"the collection '{collection.name}' has {n:,} rows",
            expected="none, because a bulk import would add rows that are there already a second time",
            run="milvus-coop load without --bulk-import",
        )
    prefix = prefix.strip("/")
    store.import_files(collection.name, [f"{prefix}/{part.name}".lstrip("/") for part in manifest.parts], on_progress)
    if (found := collection.count()) != manifest.rows:
        raise StoreError(
            f"Milvus imported {found:,} of {manifest.rows:,} rows into '{collection.name}'",
            expected="all of them",
            run="milvus-coop load without --bulk-import, which adds what is missing",
        )
    failures: list[Failure] = []
    if (tokens := folder.tokens) is not None and collection.tokens is not None:
        for part in manifest.parts:
            rows = folder.read(part, collection.layout)
            keys = {row.content.key: row.uri for row in rows if isinstance(row.content, TokenFile)}
            failures += [Failure(keys[key], "its token file is missing") for key in tokens.copy(list(keys), collection.tokens)]
    return IngestReport(found - len(failures), 0, 0, 0, tuple(failures), time.monotonic() - start)
