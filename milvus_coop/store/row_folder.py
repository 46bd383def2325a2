"""`RowFolder`: the rows of a collection in Parquet files, in a local folder or an object store, with a manifest that names them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from milvus_coop.bundle.spec import Keep
from milvus_coop.elsewhere.files import Files
from milvus_coop.elsewhere.location import parse_location
from milvus_coop.errors import BundleMismatchError, CollectionExistsError, SourceError, StoreError, quoted
from milvus_coop.records import parse_json, read_record
from milvus_coop.store import parquet
from milvus_coop.store.layout import Layout
from milvus_coop.store.rows import Record, records
from milvus_coop.store.schema import KeyType
from milvus_coop.store.token_store import TokenStore, token_key
from milvus_coop.types import Kind, Row, Stamp, TokenFile

MANIFEST = "rows.json"
TOKENS = "tokens"
"""Name of the folder for token files, for bundles that have them."""
FORMAT = 1
PART_BYTES = 64 * 2**20
"""Size of the rows of one file. A run that is killed loses at most the rows of one file."""
WHAT = "folder of rows"
PART = re.compile(r"[0-9]{8}-[0-9a-f]{8}\.parquet")
"""The names of the files. A manifest with other names is refused, because files are read and removed by them."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """One Parquet file."""

    name: str
    rows: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts about the rows of a folder. A file that it does not name is not a part of them."""

    kind: Kind
    bundle: str
    """`name version` of the bundle that made the embeddings."""
    fingerprint: str
    dim: int
    keep: Keep
    """The place of the image tokens: in the rows, in the folder `tokens` beside them, or nowhere."""
    partition_key: str = ""
    partition_key_type: KeyType = "text"
    parts: tuple[RowFile, ...] = ()
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.parts)

    @classmethod
    def of(cls, layout: Layout, bundle: str, fingerprint: str) -> Manifest:
        """The manifest of an empty folder."""
        key = layout.partition_key
        name, kind = (key.name, "text" if key.is_text else "integer") if key else ("", "text")
        return cls(layout.kind, bundle, fingerprint, layout.dim, layout.keep, name, kind)  # type: ignore[arg-type]

    def check_bundle(self, bundle: str, fingerprint: str, where: str) -> None:
        """Check that the embeddings were made with a bundle.

        Raises:
            BundleMismatchError: they were made with another one.
        """
        if fingerprint != self.fingerprint:
            raise BundleMismatchError(
                f"the rows in {where} were made with bundle {self.bundle} ({self.fingerprint[:8]})",
                expected=f"that bundle, and not {bundle} ({fingerprint[:8]})",
                run=f"--bundle with the folder of {self.bundle}",
            )


class RowFolder:
    """The rows in one folder. `open` reads them; with a layout, they can also be written, by one process at a time.

    It is a target of an ingest, like a collection. A row that changed is written again, and the file with the old one is replaced
    by one without it. About 0.5 kB of memory are needed for each row that is there or is written.
    """

    def __init__(self, files: Files, manifest: Manifest, layout: Layout, part_bytes: int = PART_BYTES) -> None:
        self._files = files
        self.manifest = manifest
        self._layout = layout
        self._part_bytes = part_bytes
        self._lock = threading.RLock()
        self._known: dict[str, tuple[Stamp, str]] = {}
        """Stamp of each row, and the file that holds it; '' if it is not written yet."""
        self._waiting: dict[str, tuple[Record, int]] = {}
        self._waiting_bytes = 0
        self._stale: set[str] = set()
        """Names of the files with rows that were replaced or removed."""

    @property
    def location(self) -> str:
        """The place, for messages."""
        return str(self._files.location)

    @property
    def tokens(self) -> TokenStore | None:
        """The token files of the rows; None if the bundle has none."""
        return TokenStore.at(self._files.location / TOKENS) if self.manifest.keep == "store" else None

    @staticmethod
    def find(text: str) -> tuple[Files, Manifest | None]:
        """The files at a place, and their manifest; None if there is none.

        Raises:
            InvalidArgumentError: the place cannot be used.
            SourceError: the manifest is damaged.
            StoreError: the place cannot be reached.
        """
        parquet.check_installed()
        files = Files(parse_location(text, WHAT), WHAT, StoreError)
        content = files.read(MANIFEST)
        if content is None:
            return files, None
        source = f"{files.location}/{MANIFEST}"
        given = parse_json(content, source, SourceError)
        if isinstance(given, dict) and (version := given.get("format")) != FORMAT:
            raise SourceError(f"{source} has format {version}", expected=f"format {FORMAT}", run="pip install -U milvus-coop")
        manifest = read_record(Manifest, given, SourceError, source)
        if wrong := next((part.name for part in manifest.parts if not PART.fullmatch(part.name)), None):
            raise SourceError(f"{source} names the file {quoted(wrong)}", expected="names such as 00000001-0123abcd.parquet")
        return files, manifest

    @classmethod
    def to_write(cls, text: str, layout: Layout, bundle: str, fingerprint: str, part_bytes: int = PART_BYTES) -> RowFolder:
        """A folder to write rows of a bundle into. Rows that are there stay.

        Raises:
            BundleMismatchError: it holds rows of another bundle.
            CollectionExistsError: it holds items of another kind, or rows with another partition key.
            InvalidArgumentError, SourceError, StoreError: see `find`.
        """
        files, found = cls.find(text)
        new = Manifest.of(layout, bundle, fingerprint)
        if found is not None:
            found.check_bundle(bundle, fingerprint, str(files.location))
            if dataclasses.replace(found, parts=(), bundle=bundle) != new:
                raise CollectionExistsError(
                    f"{files.location} holds {found.kind}s with the partition key '{found.partition_key}'",
                    expected=f"{new.kind}s with the partition key '{new.partition_key}'",
                    run="another folder",
                )
        folder = cls(files, found or new, layout, part_bytes)
        if found is None:
            folder._save(())
        for part in folder.manifest.parts:
            for row in folder.read(part, layout):
                folder._known[row.id] = (_stamp(row), part.name)
        return folder

    def read(self, part: RowFile, layout: Layout) -> list[Row]:
        """The rows of one file, for a collection of that layout.

        Raises:
            SourceError: the file is missing, or is not the one that the manifest names.
        """
        source = f"{self.location}/{part.name}"
        content = self._files.read(part.name)
        if content is None:
            raise SourceError(f"{source} is missing", expected=f"a file of {part.n_bytes:,} bytes with {part.rows:,} rows")
        if len(content) != part.n_bytes or hashlib.sha256(content).hexdigest() != part.sha256:
            raise SourceError(f"{source} is damaged: its content is not the one that {MANIFEST} names", run="copy it again")
        return parquet.read_parquet(content, layout, source)

    def stamps(self, ids: Sequence[str]) -> dict[str, Stamp]:
        """The stamps of these rows by id."""
        with self._lock:
            return {id: self._known[id][0] for id in ids if id in self._known}

    def rows(self, ids: Sequence[str]) -> dict[str, Row]:
        """No rows, because a whole file would have to be read for one."""
        return {}

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Id and stamp of every row."""
        with self._lock:
            yield from [(id, stamp) for id, (stamp, _) in self._known.items()]

    def upsert(self, rows: Sequence[Row]) -> None:
        """Add rows, or replace those with the same ids. They are written as soon as they fill a file, or by `settle`."""
        with self._lock:
            last = {row.id: row for row in rows}
            for (record, n_bytes), row in zip(records(rows, self._layout), last.values(), strict=True):
                self._forget(row.id, row)
                self._known[row.id] = (_stamp(row), "")
                self._waiting[row.id] = (record, n_bytes)
                self._waiting_bytes += n_bytes
                if self._waiting_bytes >= self._part_bytes:
                    self._write_waiting()

    insert = upsert

    def settle(self) -> None:
        """Write the rows that wait, and remove replaced rows from their files."""
        with self._lock:
            self._write_waiting()
            stale = [part for part in self.manifest.parts if part.name in self._stale]
            for part in stale:
                kept = [row for row in self.read(part, self._layout) if self._known.get(row.id, ("", ""))[1] == part.name]
                self._stale.discard(part.name)
                written = self._write_part(records(kept, self._layout)) if kept else None
                parts = tuple(other for other in self.manifest.parts if other != part)
                self._save((*parts, written) if written else parts)
                self._files.remove_many([part.name])

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows. Unknown ids are ignored."""
        with self._lock:
            for id in ids:
                self._forget(id, None)
                self._known.pop(id, None)
            self.settle()

    def refusal(self, metadata: Mapping[str, Any] | None) -> str:
        """The reason why no row can have this metadata; '' if one can."""
        key = self._layout.partition_key
        return "" if key is None else key.problem(metadata or {})

    def _forget(self, id: str, successor: Row | None) -> None:
        """Take a row out, and remove its token file if its successor has another one."""
        if id not in self._known:
            return
        stamp, part = self._known[id]
        if (replaced := self._waiting.pop(id, None)) is not None:
            self._waiting_bytes -= replaced[1]
        self._stale |= {part} - {""}
        if (tokens := self.tokens) is not None:
            key = token_key(id, stamp.digest)
            if successor is None or successor.content != TokenFile(key):
                tokens.remove([key])

    def _write_waiting(self) -> None:
        if self._waiting:
            part = self._write_part(list(self._waiting.values()))
            self._waiting, self._waiting_bytes = {}, 0
            self._save((*self.manifest.parts, part))

    def _write_part(self, sized: Sequence[tuple[Record, int]]) -> RowFile:
        """Write a file. It is a part of the rows when the manifest names it."""
        content = parquet.write_parquet(sized, self._layout)
        digest = hashlib.sha256(content).hexdigest()
        number = max((int(part.name.partition("-")[0]) for part in self.manifest.parts), default=0) + 1
        part = RowFile(f"{number:08}-{digest[:8]}.parquet", len(sized), len(content), digest)
        self._files.write(part.name, content)
        for record, _ in sized:
            self._known[record["id"]] = (self._known[record["id"]][0], part.name)
        return part

    def _save(self, parts: tuple[RowFile, ...]) -> None:
        self.manifest = dataclasses.replace(self.manifest, parts=parts)
        self._files.write(MANIFEST, (json.dumps(asdict(self.manifest), indent=1) + "\n").encode())


def _stamp(row: Row) -> Stamp:
    return Stamp(uri=row.uri, digest=row.digest, size=row.size, mtime_ns=row.mtime_ns)
