"""`Store`: a connection to Milvus, and its collections."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from milvus_coop.bundle.spec import BundleSpec
from milvus_coop.config import Settings
from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.elsewhere.location import Location, parse_location
from milvus_coop.errors import (
    BundleMismatchError,
    CollectionExistsError,
    CollectionNotFoundError,
    ForeignCollectionError,
    InvalidArgumentError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from milvus_coop.store import indexing, lite
from milvus_coop.store.address import parse_address
from milvus_coop.store.aliases import Aliases
from milvus_coop.store.collection import Collection
from milvus_coop.store.connection import Connection
from milvus_coop.store.handler import find_scipy
from milvus_coop.store.indexing import POLL_S, STEP_TIMEOUT_S
from milvus_coop.store.layout import (
    Fields,
    Layout,
    foreign_layout,
    has_states,
    own_keep,
    own_layout,
    summary,
    token_place,
    vector_dim,
)
from milvus_coop.store.schema import (
    DEFAULTS,
    EMBEDDING,
    FLAT,
    HEADER,
    PLANNED_INDEX,
    CollectionOptions,
    Header,
    check_name,
    collection_schema,
    index_params,
    read_header,
)
from milvus_coop.store.token_files import check_new, drop_tokens, location_of, open_tokens
from milvus_coop.types import CollectionInfo, Kind

LOAD_TIMEOUT_S = 120.0
"""Minimum time limit for creating or loading a collection. A server takes 3 s for an empty one, and longer for millions of rows."""
MIN_MMAP_VERSION = (2, 5)
"""The first version of the server that maps single fields, by its documentation."""


class Store:
    """One connection to Milvus; `with Store(...) as store:` closes it. Safe to use from several threads.

    Args:
        uri: a Milvus Lite path, such as `./milvus_coop.db`, or `http://host:19530`, or `https://host:443`; a path after the host
            names a Milvus database.
        token: `user:password` or an API key.
        user: user name, with `password` instead of `token`.
        password: password of `user`.
        ca_file: PEM file with the certificate authority of an https server; default the system's authorities.
        token_store: place of the token files, for bundles whose image tokens are too large for Milvus: a local folder, or s3://,
            gs://, az://, ... Each collection has a folder with its name there. Default: the place that the collection was created
            with; for a new one `<uri>.tokens`, beside a Milvus Lite database.
        timeout_s: time limit of every call.
        wait_s: time to wait for a Milvus Lite folder that another process has open.
        must_exist: raise an error if a Milvus Lite path does not exist, instead of creating a folder there.

    Raises:
        InvalidArgumentError: a parameter is not valid.
        StoreUnavailableError, StoreAuthError, StoreLockedError, StoreError: the connection failed.
    """

    def __init__(
        self,
        uri: str | Path = "./milvus_coop.db",
        *,
        token: str = "",
        user: str = "",
        password: str = "",
        ca_file: Path | None = None,
        token_store: str | Path = "",
        timeout_s: float = 10.0,
        wait_s: float = 0.0,
        must_exist: bool = False,
    ) -> None:
        address = parse_address(uri, token=token, user=user, password=password)
        if must_exist and address.folder is not None and not address.folder.exists():
            raise StoreUnavailableError(f"there is no Milvus Lite database at {address.label}", run="milvus-coop ingest PHOTOS/")
        self._token_store = str(parse_location(token_store)) if str(token_store) else ""
        self._connection = Connection(address, timeout_s=timeout_s, wait_s=wait_s, ca_file=ca_file)
        self.aliases = Aliases(self._connection)
        """Other names of collections."""

    @classmethod
    def from_settings(cls, settings: Settings, *, must_exist: bool = False) -> Store:
        """Open the store that the settings name."""
        ca_file = Path(settings.ca_file) if settings.ca_file else None
        return cls(
            settings.uri,
            token=settings.token,
            ca_file=ca_file,
            token_store=settings.token_store,
            timeout_s=settings.timeout_s,
            wait_s=settings.wait_s,
            must_exist=must_exist,
        )

    def __repr__(self) -> str:
        return f"<Store {self._connection.address.label}>"

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Safe to call twice. With Milvus Lite, the last store that closes also frees the folder's lock."""
        self._connection.close()

    def create(
        self,
        name: str,
        spec: BundleSpec,
        kind: Kind = "image",
        *,
        options: CollectionOptions = DEFAULTS,
    ) -> Collection:
        """Create an empty collection for that bundle.

        Args:
            name: name of the collection: a letter or `_`, then letters, digits and `_`.
            spec: the bundle that will make the embeddings. The collection remembers its fingerprint.
            kind: the kind of the items: `image` or `text`.
            options: the index, the partition key and more.

        Raises:
            CollectionExistsError: there is a collection of that name.
            InvalidArgumentError: the name is not valid; or an option is not for this Milvus; or the bundle needs a token store,
                Milvus is a server, and no token store is set.
            StoreError: the server cannot load the collection, for example because it has fewer nodes than `options.replicas`.
            TokenStoreError: the token store is in use or cannot be written to. The collection is not created then.
        """
        if self._has(check_name(name)):
            raise CollectionExistsError(
                f"the collection '{name}' exists", run=f"another name, or milvus-coop collections drop {name}"
            )
        self._check_options(options)
        header = Header(kind, spec.label, spec.fingerprint, replicas=options.replicas)
        if kind == "image" and spec.tokens.keep == "store":
            header = replace(header, token_id=uuid.uuid4().hex, token_store=self._token_store)
            check_new(self._location(name, header), header)
        schema = collection_schema(spec, kind, header, options)
        after = options.build_index == "after"
        planned = {PLANNED_INDEX: options.index} if after else {}
        with self._connection.writing():
            self._connection.call(
                "create_collection",
                collection=name,
                timeout_s=self._load_timeout_s,
                schema=schema,
                consistency_level="Session",
                properties={HEADER: header.to_json(), **planned, **options.properties},
            )
        self._create_index(name, FLAT if after else options.index)
        try:
            return self.open(name, spec)
        except (StoreUnavailableError, StoreTimeoutError):
            raise
        except StoreError:  # too few nodes, or a token store that cannot be written to: the collection would remember it
            with contextlib.suppress(StoreError), self._connection.writing():
                self._connection.call("drop_collection", collection=name, timeout_s=self._load_timeout_s)
            raise

    def build_index(self, name: str, on_progress: Callable[[int, int], None] | None = None) -> bool:
        """Build the index of a collection that was created with `build_index="after"`, and load the collection again.

        On a server, searches fail with `StoreUnavailableError` until it is loaded. If this is interrupted, call it again.

        Args:
            name: name of the collection.
            on_progress: a function that gets the numbers of indexed rows and of all rows, once a second.

        Returns:
            False if the collection has its index already.

        Raises:
            CollectionNotFoundError: there is no collection of that name.
            StoreError: the server failed to build the index.
        """
        description = self._describe(check_name(name))
        name, header = description["collection_name"], read_header(description)
        planned = _planned_index(description)
        if header is None or not planned:
            return False
        indexing.build(self._connection, name, planned, EMBEDDING, header.replicas, on_progress)
        return True

    def awaits_index(self, name: str) -> bool:
        """True if the index of the collection is planned (`build_index="after"`) and not built yet.

        Raises:
            CollectionNotFoundError: there is no collection of that name.
        """
        return bool(_planned_index(self._describe(check_name(name))))

    def import_files(self, name: str, files: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> None:
        """Let a server import files of its own storage into a collection, one after another, and wait until searches see the rows.

        Args:
            name: name of the collection.
            files: paths in the server's storage.
            on_progress: a function that gets the numbers of imported files and of all files.

        Raises:
            InvalidArgumentError: Milvus Lite has no bulk import.
            StoreError: the server failed to import a file. The rows of the files before it are there.
        """
        if self._connection.is_lite:
            raise InvalidArgumentError("Milvus Lite has no bulk import", run="milvus-coop load without --bulk-import")
        for number, file in enumerate(files, start=1):
            task = self._connection.start_import(name, file)
            while (state := self._connection.import_state(name, task)).state_name != "Completed":
                if "Failed" in state.state_name:
                    raise StoreError(
                        f"Milvus failed to import {file}: {state.failed_reason}",
                        expected="a file in the server's own storage",
                        run="--bulk-import with the path of the folder there, or without it",
                    )
                time.sleep(POLL_S)
            if on_progress is not None:
                on_progress(number, len(files))
        self._connection.call("refresh_load", collection=name, timeout_s=max(STEP_TIMEOUT_S, self._connection.timeout_s))

    def open(self, name: str, spec: BundleSpec | None = None, *, fields: Fields | None = None) -> Collection:
        """Open and load a collection.

        Args:
            name: name of the collection, or an alias. With an alias, the collection that it names now stays open.
            spec: the bundle that is used with the collection; None: do not check the bundle.
            fields: names of the fields, for a collection that milvus-coop did not make.

        Raises:
            CollectionNotFoundError: there is no collection of that name.
            BundleMismatchError: the collection was made with another bundle.
            ForeignCollectionError: milvus-coop did not make the collection, and `fields` is not given or does not fit.
            TokenStoreError: the token files are not at their place, or cannot be reached.
        """
        description = self._describe(check_name(name))
        name, header = description["collection_name"], read_header(description)
        layout = self._layout(name, description, header, spec, fields)
        find_scipy()
        self._load(name, header)
        self._connection.flush(name)  # rows that a crash left in the log
        if self._connection.is_lite:
            lite.release_unused_memory()
        tokens = None
        if header is not None and header.token_id:
            tokens = open_tokens(self._location(name, header), name, header, lambda: self._count(name) == 0)
        return Collection(self._connection, name, layout, header, tokens)

    def open_if_there(self, name: str, spec: BundleSpec, kind: Kind) -> Collection | None:
        """Open a collection of that bundle and kind; None if there is no collection of that name.

        Raises:
            BundleMismatchError: the collection was made with another bundle.
            CollectionExistsError: the collection holds items of another kind.
            ForeignCollectionError: milvus-coop did not make the collection.
        """
        if not self._has(check_name(name)):
            return None
        collection = self.open(name, spec)
        if collection.kind != kind:
            raise CollectionExistsError(
                f"the collection '{name}' holds {collection.kind}s", expected=f"one of {kind}s", run="another collection name"
            )
        return collection

    def open_or_create(
        self, name: str, spec: BundleSpec, kind: Kind = "image", *, options: CollectionOptions = DEFAULTS
    ) -> Collection:
        """Open a collection of that bundle and kind, or create it; for the errors, see `open_if_there` and `create`."""
        if (found := self.open_if_there(name, spec, kind)) is not None:
            return found
        try:
            return self.create(name, spec, kind, options=options)
        except CollectionExistsError:  # somebody else, such as a second run of the same ingest, has just created it
            if (found := self.open_if_there(name, spec, kind)) is None:
                raise
            return found

    def resolve(self, name: str, deadline: Deadline = NEVER) -> tuple[str, Header | None]:
        """The name and the header of the collection that a name or an alias stands for now; no header if others made it.

        Raises:
            CollectionNotFoundError: there is none.
            StoreTimeoutError: the deadline or the time limit came before the answer.
        """
        description = self._describe(check_name(name), deadline)
        return str(description["collection_name"]), read_header(description)

    def ping(self) -> None:
        """Send a small request to Milvus, to check that it answers.

        Raises:
            StoreError: Milvus does not answer.
        """
        self._connection.call("list_collections")

    def list(self) -> list[CollectionInfo]:
        """All collections, sorted by name. Those that this version of milvus-coop cannot read have the kind None."""
        found = []
        for name in sorted(self._connection.call("list_collections")):
            with contextlib.suppress(CollectionNotFoundError):  # it was dropped meanwhile
                description = self._describe(name)
                header = None
                with contextlib.suppress(StoreError):  # a later version of this package made it
                    header = read_header(description)
                found.append(self._info(description, header))
        return found

    def describe(self, name: str) -> CollectionInfo:
        """The description of a collection, without loading it. If it is not loaded, `count` is an estimate by Milvus.

        Raises:
            CollectionNotFoundError: there is no collection of that name.
        """
        description = self._describe(check_name(name))
        return self._info(description, read_header(description))

    def _info(self, description: Mapping[str, Any], header: Header | None) -> CollectionInfo:
        name = description["collection_name"]
        index = self._index(name)
        kind, metric = str(index.get("index_type", "")), str(index.get("metric_type", ""))
        if planned := _planned_index(description):
            metric += f", {planned} not built yet"
        place = ""
        if header is not None:
            location = self._location_label(name, header)
            place = token_place(header, own_keep(header, description), location, has_states(description))
        return summary(name, header, vector_dim(description), kind, metric, self._count(name), place)

    def drop(self, name: str) -> str:
        """Delete a collection with all its rows, and then its token files.

        Returns:
            A note for people about token files that were not at their place; '' if there is nothing left to do.

        Raises:
            CollectionNotFoundError: there is no collection of that name.
            InvalidArgumentError: the name is an alias, or an alias names the collection.
            TokenStoreError: the collection was deleted, but its token files could not be removed.
        """
        description = self._describe(check_name(name))
        self.aliases.check_unused(name, description["collection_name"])
        header = read_header(description)
        with self._connection.writing():
            self._connection.call("drop_collection", collection=name, timeout_s=self._load_timeout_s)
        if header is not None and header.token_id:
            return drop_tokens(self._connection.address, self._location(name, header), name, header)
        return ""

    def _check_options(self, options: CollectionOptions) -> None:
        is_lite = self._connection.is_lite
        if is_lite and (options.build_index == "after" or options.replicas > 1 or options.mmap):
            raise InvalidArgumentError(
                "Milvus Lite indexes its rows itself, and keeps one copy of them in memory",
                expected="a Milvus server for build_index='after', replicas and mmap",
            )
        if options.mmap:
            version = str(self._connection.call("get_server_version"))
            found = re.search(r"(\d+)\.(\d+)", version)
            if found and (int(found[1]), int(found[2])) < MIN_MMAP_VERSION:
                raise InvalidArgumentError(
                    f"the Milvus server is version {version}, which cannot map single fields",
                    expected="2.5 or later, or the property mmap.enabled=true of the whole collection",
                )

    def _location(self, name: str, header: Header) -> Location:
        return location_of(self._connection.address, name, header, self._token_store)

    def _location_label(self, name: str, header: Header) -> str:
        """The location for people, even if it cannot be used: one broken collection must not hide the others in a list."""
        try:
            return str(self._location(name, header)) if header.token_id else ""
        except InvalidArgumentError:
            return header.token_store

    @property
    def _load_timeout_s(self) -> float:
        return max(LOAD_TIMEOUT_S, self._connection.timeout_s)

    def _has(self, name: str) -> bool:
        try:
            self._describe(name)
        except CollectionNotFoundError:
            return False
        return True

    def _load(self, name: str, header: Header | None) -> None:
        replicas: dict[str, Any] = {"replica_number": header.replicas} if header is not None and header.replicas > 1 else {}
        load = partial(self._connection.call, "load_collection", collection=name, timeout_s=self._load_timeout_s, **replicas)
        try:
            load()
        except (StoreTimeoutError, StoreUnavailableError):
            raise
        except StoreError:
            folder = self._connection.address.folder
            if folder is None or not lite.remove_indexes(folder, name):
                raise
            load()

    def _describe(self, name: str, deadline: Deadline = NEVER) -> Mapping[str, Any]:
        limit_s = deadline.within(self._connection.timeout_s)
        description: Mapping[str, Any] = self._connection.call("describe_collection", collection=name, timeout_s=limit_s)
        return description

    def _index(self, name: str, field: str = "") -> Mapping[str, Any]:
        """The index of that field, or the first index; {} if there is none."""
        for index_name in self._connection.call("list_indexes", collection=name):
            index: Mapping[str, Any] = self._connection.call("describe_index", collection=name, index_name=index_name)
            if index and field in ("", index.get("field_name")):
                return index
        return {}

    def _create_index(self, name: str, index: str) -> None:
        with self._connection.writing():
            self._connection.call("create_index", collection=name, timeout_s=self._load_timeout_s, index_params=index_params(index))

    def _count(self, name: str) -> int:
        state = self._connection.call("get_load_state", collection=name)["state"]
        if state.name != "Loaded":
            return int(self._connection.call("get_collection_stats", collection=name)["row_count"])
        with self._connection.reading():
            rows = self._connection.call("query", collection=name, output_fields=["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])

    def _layout(
        self, name: str, description: Mapping[str, Any], header: Header | None, spec: BundleSpec | None, fields: Fields | None
    ) -> Layout:
        if header is None:
            if fields is None:
                raise ForeignCollectionError(
                    f"milvus-coop did not make the collection '{name}'",
                    expected="fields=Fields(...) that names its fields, to search it",
                )
            return foreign_layout(fields, spec, description, self._index(name, fields.embedding))
        if fields is not None:
            raise InvalidArgumentError(f"fields= is given, but milvus-coop made the collection '{name}'", expected="no fields=")
        if spec is not None and spec.fingerprint != header.fingerprint:
            raise BundleMismatchError(
                f"the collection '{name}' was made with bundle {header.bundle} ({header.fingerprint[:8]})",
                expected=f"that bundle, and not {spec.label} ({spec.fingerprint[:8]})",
                run=f"--bundle with the folder of {header.bundle}, or ingest again into another collection",
            )
        found = self._index(name, EMBEDDING)
        if not found:  # the process that created the collection, or that was to build its index, ended before this step
            self._create_index(name, FLAT if _planned_index(description) else "HNSW")
            found = self._index(name, EMBEDDING)
        return own_layout(header, description, found)


def _planned_index(description: Mapping[str, Any]) -> str:
    """The index that the collection is to get when it is complete; '' if it has its index."""
    return str((description.get("properties") or {}).get(PLANNED_INDEX, ""))
