"""`Collection`: write the rows of one collection, and read them as a `CollectionView`."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from milvus_coop.arguments import many, real_number
from milvus_coop.errors import InvalidArgumentError, StoreError, TokenStoreError
from milvus_coop.store.connection import Connection
from milvus_coop.store.layout import Layout
from milvus_coop.store.rows import Record, among, chunks, distinct, records, requests
from milvus_coop.store.schema import Header
from milvus_coop.store.token_store import HOUR_S, SweepReport, TokenStore, belongs_to, sweep
from milvus_coop.store.view import CollectionView
from milvus_coop.types import Row, TokenFile

UNSETTLED_ROWS = 6000
UNSETTLED_BYTES = 32 * 2**20
"""Maximum number and size of the inserted rows that are not checked for second rows of their ids yet."""
SETTLE_TRIES = 20
SETTLE_PAUSE_S = 1.0
WRITE_TIMEOUT_S = 60.0
"""Minimum time limit of one write of up to 32 MiB; writes take longer than searches."""


class Collection(CollectionView):
    """One loaded collection, made by `Store.open` or `Store.create`. Safe to use from several threads.

    Token files are written before the rows that name them. `upsert` and `delete` remove files that no row names any more.
    """

    def __init__(
        self, connection: Connection, name: str, layout: Layout, header: Header | None, tokens: TokenStore | None = None
    ) -> None:
        super().__init__(connection, name, layout, header, tokens)
        self._settling = threading.Lock()
        self._unsettled: dict[str, Row] = {}
        self._unsettled_bytes = 0

    def upsert(self, rows: Iterable[Row]) -> None:
        """Write rows. A row with a known id replaces the old row. Acknowledged rows survive a crash.

        If several rows in one call have the same id, the last one counts. Nothing is written if a row does not fit. Large calls are
        split into requests of at most 32 MiB. If a request fails, the earlier ones stay written, and the call may be repeated. On a
        server, rows of a collection with a partition key are missing for a moment before they are replaced.

        Raises:
            InvalidArgumentError: a row does not fit the collection; the message names it.
            ForeignCollectionError: milvus-coop did not make this collection.
        """
        listed = many("rows", rows, "a list of rows")
        sized = records(listed, self._own())
        replaced = self._token_keys([row.id for row in listed])
        if self._replaces_in_one_step:
            self._replace(sized)
        else:
            self._note(listed, sized)
            self._replace(sized)
            self.settle()
        self._remove_tokens(replaced - {row.content.key for row in listed if isinstance(row.content, TokenFile)})

    def insert(self, rows: Iterable[Row]) -> None:
        """Write rows that the collection does not have, as far as the caller knows. Call `settle` after the last one.

        A server takes in an upsert as a deletion and an insertion, and therefore indexes every segment a second time later. An
        insert costs half of that, but adds a second row if there is a row of that id already: one that another process wrote
        meanwhile, or one of a request that was repeated because its answer was lost. So the ids of each 6,000 inserted rows are
        counted after they were written, with Strong consistency. If there are more rows than ids, the rows are upserted, which
        replaces all rows of an id. Whichever process writes last also counts last, so no second row stays. Only a process that
        dies before it has counted can leave one.

        Raises:
            InvalidArgumentError, ForeignCollectionError: see `upsert`.
        """
        listed = many("rows", rows, "a list of rows")
        if self._connection.is_lite:  # its insert replaces the row of that id
            self.upsert(listed)
            return
        sized = records(listed, self._own())
        self._note(listed, sized)
        self._write("insert", sized)
        if len(self._unsettled) >= UNSETTLED_ROWS or self._unsettled_bytes >= UNSETTLED_BYTES:
            self.settle()

    def settle(self) -> None:
        """Make sure that no inserted row has a second row of its id.

        Raises:
            StoreError: other processes go on writing the same rows.
        """
        with self._settling:
            for some in chunks(list(self._unsettled), UNSETTLED_ROWS):
                self._settle([self._unsettled[id] for id in some])
            self._unsettled, self._unsettled_bytes = {}, 0

    def _settle(self, rows: Sequence[Row]) -> None:
        last = {row.id: row for row in rows}
        here = among(self._layout.id, list(last))
        for _ in range(SETTLE_TRIES):
            (answer,) = self._query(here, ("count(*)",))
            if (n := int(answer["count(*)"])) == len(last):
                return
            ids = [record[self._layout.id] for record in self._query(here, (self._layout.id,))]
            if n <= len(ids):  # somebody deleted the others
                return
            replaced = self._token_keys(ids)
            self._replace(records([last[id] for id in ids], self._layout))
            self._remove_tokens(replaced - {row.content.key for row in rows if isinstance(row.content, TokenFile)})
            time.sleep(random.uniform(0, SETTLE_PAUSE_S))  # noqa: S311 - so that two processes do not replace in step
        raise StoreError(
            f"other processes go on writing the same rows into '{self.name}'", run="one ingest of these sources at a time"
        )

    def refusal(self, metadata: Mapping[str, Any] | None) -> str:
        """The reason why the collection cannot have an item with this metadata: it lacks the partition key. '' if it can."""
        key = self._layout.partition_key
        return "" if key is None else key.problem(metadata or {})

    def flush(self) -> None:
        """Put new rows into the index of Milvus Lite, so that they are fast to search. Servers do this themselves.

        Milvus Lite compares a query with rows that are not flushed one by one: 0.6 s for 10,000 rows, against 0.01 s with the
        index. Searches and large writes flush when it is needed; calling this at the end of an ingest saves the next search up to a
        second.
        """
        self._connection.flush(self.name)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete the rows with these ids. Unknown ids are ignored. Searches after this call do not find the rows.

        The token files of the rows are removed too. If that fails, `sweep` removes them later.
        """
        self._own()
        listed = distinct(ids)
        unneeded = self._token_keys(listed)
        self._delete(listed)
        if listed and not self._connection.is_lite:
            self.count()  # a server returns no timestamp for a delete, so Session reads do not wait for it; Strong reads do
        self._remove_tokens(unneeded)

    def sweep(self, *, older_than_s: float = HOUR_S, dry_run: bool = False) -> SweepReport:
        """Remove token files that no row refers to, and report the rows whose file is missing or damaged.

        Args:
            older_than_s: minimum age of a removed file in seconds. A running ingest writes files before their rows.
            dry_run: only report, and remove nothing.

        Raises:
            InvalidArgumentError: the collection keeps no token files.
        """
        if self.tokens is None:
            raise InvalidArgumentError(
                f"the collection '{self.name}' has no token store", expected="one made with a bundle that keeps tokens in files"
            )
        if real_number("older_than_s", older_than_s, "0 or more seconds") < 0:
            raise InvalidArgumentError(f"older_than_s is {older_than_s}", expected="0 or more seconds")
        rows = ((row["uri"], self._key(row)) for page in self._pages(("uri", *self._content_fields)) for row in page)
        return sweep(self.tokens, rows, older_than_s=older_than_s, dry_run=dry_run)

    @property
    def _replaces_in_one_step(self) -> bool:
        """False on a server if there is a partition key. Such rows are deleted and inserted.

        Milvus 2.3.5 upserts most rows into partitions of other keys, where searches with a filter for the key do not find them.
        """
        return self._connection.is_lite or self._layout.partition_key is None

    def _replace(self, sized: Sequence[tuple[Record, int]]) -> None:
        """Write rows instead of all rows with their ids."""
        # Lite's upsert keeps the old row's dynamic fields; its insert replaces the row of that id. A server's insert would add a
        # second row with the same id.
        if not self._replaces_in_one_step:
            self._delete([record["id"] for record, _ in sized])
        self._write("upsert" if self._replaces_in_one_step and not self._connection.is_lite else "insert", sized)

    def _delete(self, ids: Sequence[str]) -> None:
        with self._connection.writing():
            for some in chunks(ids):
                filter = among(self._layout.id, some)
                self._connection.call("delete", collection=self.name, timeout_s=self._write_timeout_s, filter=filter)

    def _note(self, rows: Sequence[Row], sized: Sequence[tuple[Record, int]]) -> None:
        """Note rows that are about to be inserted. If that fails, a part of them may be there."""
        with self._settling:
            self._unsettled |= {row.id: row for row in rows}
            self._unsettled_bytes += sum(n_bytes for _, n_bytes in sized)

    def _write(self, method: str, sized: Sequence[tuple[Record, int]]) -> None:
        with self._connection.writing():
            for request, n_bytes in requests(sized):
                self._connection.call(method, collection=self.name, timeout_s=self._write_timeout_s, data=request)
                self._connection.wrote(self.name, len(request), n_bytes)

    def _token_keys(self, ids: Sequence[str]) -> set[str]:
        """Keys of the token files that belong to these rows; empty if there are no such files."""
        if self.tokens is None or not ids:
            return set()
        id, fields = self._layout.id, (self._layout.id, *self._content_fields)
        found = (row for some in chunks(list(dict.fromkeys(ids))) for row in self._query(among(id, some), fields))
        return {key for row in found if belongs_to(key := self._key(row), row[id])}

    def _remove_tokens(self, keys: Set[str]) -> None:
        if self.tokens is not None and keys:
            with contextlib.suppress(TokenStoreError):  # the rows are already correct; `sweep` removes files that are left
                self.tokens.remove(sorted(keys))

    @property
    def _write_timeout_s(self) -> float:
        return max(WRITE_TIMEOUT_S, self._connection.timeout_s)
