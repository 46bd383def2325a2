"""`CollectionView`: search and read the rows of one collection, or of a part of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from milvus_coop.arguments import strings, whole_number
from milvus_coop.deadline import NEVER, Deadline
from milvus_coop.errors import FilterError, ForeignCollectionError, InvalidArgumentError, StoreError, quoted
from milvus_coop.store.connection import Connection
from milvus_coop.store.filters import check_whole, within
from milvus_coop.store.hits import candidate, candidates, similarity
from milvus_coop.store.layout import Layout, summary, token_place
from milvus_coop.store.ranker import Ranker, RerankService, build_ranker
from milvus_coop.store.rows import Record, among, among_any, chunks, distinct, literal, row_of
from milvus_coop.store.schema import MAX_K, STAMP_FIELDS, TEXT_STATES, Header, search_params
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Array, Candidate, CollectionInfo, Content, Kind, Row, Stamp, TokenFile

ROWS_PER_PAGE = 5000
"""Number of rows in one page of `all_stamps`."""
ANSWER_BYTES = 64 * 2**20
"""Maximum size of the contents in one search answer, in bytes; servers send up to 256 MiB."""
TYPICAL_TEXT_BYTES = 4096
ROW_BYTES = 1024
"""Rough size of a row in an answer without its content, in bytes."""


class CollectionView:
    """Reads the rows of one loaded collection, or of the part that a filter leaves. Safe to use from several threads.

    Consistency: `search`, `candidates` and `uris` read with Milvus' level *Session* soon after a write of the same process, which
    they see. They wait for it only right after a write (up to 0.4 s). Otherwise they read with *Bounded*, which costs the same as
    the loosest level (5 ms, against 200 ms for Strong, on a server with 3,000 rows). Writes of other processes appear after
    fractions of a second. `count`, `stamps`, `rows` and their like read with *Strong*: they see every write of any process that was
    acknowledged before the call. Milvus Lite always reads the latest state.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        layout: Layout,
        header: Header | None,
        tokens: TokenStore | None = None,
        *,
        filter: str = "",
    ) -> None:
        self._connection = connection
        self.name = name
        self.tokens = tokens
        """The store of the files that each `TokenFile` names; None if the collection has no token files."""
        self._layout = layout
        self._header = header
        self._fixed = filter

    def within(self, filter: str) -> CollectionView:
        """A view that reads only the rows that the filter leaves, whatever filter a call adds.

        Its errors do not show the filter. A call's own filter may be any expression whose brackets and quotes match.

        Raises:
            FilterError: a bracket or a quote of the filter has no partner.
        """
        check_whole(filter)
        whole = within(filter, self._fixed)
        return CollectionView(self._connection, self.name, self._layout, self._header, self.tokens, filter=whole)

    @property
    def kind(self) -> Kind:
        """The kind of the items: `image` or `text`."""
        return self._layout.kind

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return self._layout.dim

    @property
    def layout(self) -> Layout:
        """The fields of the collection."""
        return self._layout

    @property
    def header(self) -> Header | None:
        """The record about itself that the collection carries; None if milvus-coop did not make it."""
        return self._header

    def own_header(self) -> Header:
        """The record about itself that the collection carries.

        Raises:
            ForeignCollectionError: milvus-coop did not make this collection.
        """
        self._own()
        assert self._header is not None  # noqa: S101 - own collections have one
        return self._header

    def __repr__(self) -> str:
        return f"<Collection {self.name} of {self.kind}s in {self._connection.address.label}>"

    def info(self) -> CollectionInfo:
        """Kind, bundle, dimension, number of rows and index of the collection."""
        layout = self._layout
        states = layout.content_field is not None and layout.content_field.states_bytes > 0
        place = token_place(self._header, layout.keep, self.tokens and self.tokens.location, states)
        return summary(self.name, self._header, layout.dim, layout.index_type, layout.metric, self.count(), place)

    def search(
        self,
        embeddings: Array,
        k: int,
        *,
        filter: str = "",
        output_fields: Iterable[str] = (),
        with_tokens: bool = True,
        timeout_s: float | None = None,
        deadline: Deadline = NEVER,
    ) -> list[list[Candidate]]:
        """The `k` rows nearest to each query, with their content.

        This is one Milvus call, or several if the answer would be larger than 64 MiB.

        Args:
            embeddings: float array of shape (n, dim), unit rows.
            k: number of candidates per query, 1 to 16,384.
            filter: a Milvus boolean expression, such as `year > 2020`.
            output_fields: names of metadata for `Candidate.fields`; `*` means all. Fields that a row does not have are left out.
            with_tokens: False for a search whose hits are not reranked: images then come without their content, and texts without
                their states.
            timeout_s: time limit of each call; default the store's. On Milvus Lite, the first search after many new rows takes up
                to a second longer.
            deadline: the moment by which all calls have to be done.

        Returns:
            A list of candidates for each query, by descending `be_score`, then by id.

        Raises:
            InvalidArgumentError: the shape or k is wrong.
            FilterError: Milvus rejects the filter.
            StoreTimeoutError, StoreUnavailableError, StoreError: Milvus is too slow, cannot be reached, or failed.
        """
        queries = self._check_queries(embeddings, k)
        names = strings("output_fields", output_fields, "a list of field names")
        whole = within(self._fixed, filter)
        held = self._held(with_tokens=with_tokens)
        self._connection.before_search(self.name)
        options = {
            "limit": k,
            "anns_field": self._layout.embedding,
            "output_fields": self._output_fields(names, held),
            "search_params": search_params(
                self._layout.index_type, self._layout.metric, k, visits_filtered=self._connection.is_lite and bool(whole)
            ),
            "consistency_level": self._connection.consistency(self.name),
        }
        found: list[list[Candidate]] = []
        for some in self._runs(queries, k, sum(held.values())):
            with self._connection.reading(deadline.wait_s()), self._own_words(filter):
                limit_s = deadline.within(self._connection.timeout_s if timeout_s is None else timeout_s)
                answer = self._connection.call(
                    "search", collection=self.name, timeout_s=limit_s, filter=whole, data=some, **options
                )
            found += [candidates(hits, self._layout, names) for hits in answer]
        return found

    def ranker(self, query: str, service: RerankService) -> Ranker:
        """A ranker that makes Milvus itself rerank a search of this collection. It also raises the errors of `build_ranker`.

        Args:
            query: a text for a collection of images, or a token string for a collection of texts.
            service: the rerank service that Milvus calls.

        Raises:
            InvalidArgumentError: the rows hold nothing that a service could read.
        """
        field = self._layout.content_field
        if field is None:
            raise InvalidArgumentError(
                f"the rows of '{self.name}' hold nothing that a rerank service could read",
                expected="a collection with image tokens or texts; or rerank in the client, with CoopSearch.query()",
            )
        version = str(self._connection.call("get_server_version"))
        read_by = self.name if self.tokens is not None else ""
        return build_ranker(service, query, field.name, version=version, collection=read_by)

    def content_of(self, string: str) -> Content | None:
        """The content that a string in the content field of a row stands for, without states; None without such a field."""
        field = self._layout.content_field
        return None if field is None else field.holds(string)

    def contents_of(self, strings: Sequence[str]) -> list[Content | None]:
        """`content_of` for each string. A view of a part of the collection has None for token files that none of its rows names."""
        found = [self.content_of(string) for string in strings]
        keys = [content.key for content in found if isinstance(content, TokenFile)]
        if not (self._fixed and keys):
            return found
        name = self._content_fields[0]
        filter = among_any(name, keys, numeric=False)
        level = self._connection.consistency(self.name)
        rows = self._query(filter, (name,), consistency_level=level) if filter else []
        named = {row[name] for row in rows}
        return [None if isinstance(content, TokenFile) and content.key not in named else content for content in found]

    def stamps(self, ids: Iterable[str]) -> dict[str, Stamp]:
        """The stamps of these ids: facts about the sources of the items. Ids that the collection does not have are left out."""
        layout = self._own()
        known: dict[str, Stamp] = {}
        for some in chunks(distinct(ids)):
            known.update(map(_stamp, self._query(among(layout.id, some), STAMP_FIELDS)))
        return known

    def rows(self, ids: Iterable[str]) -> dict[str, Row]:
        """The whole rows of these ids, with embeddings and contents. Ids that the collection does not have are left out.

        A row takes about 10 kB, so ask for a few thousand at a time.
        """
        layout = self._own()
        found: dict[str, Row] = {}
        for some in chunks(distinct(ids)):
            for record in self._query(among(layout.id, some), ("*",)):
                found[record[layout.id]] = row_of(record, layout)
        return found

    def all_rows(self) -> Iterator[list[Row]]:
        """The whole rows in pages, by ascending id. Rows that are written or deleted meanwhile may be missing or present."""
        layout = self._own()
        content_bytes = 0 if layout.content_field is None else sum(layout.content_field.limits.values())
        step = max(1, min(ROWS_PER_PAGE, ANSWER_BYTES // (content_bytes + ROW_BYTES + 4 * layout.dim)))
        for page in self._pages(("*",), step):
            yield [row_of(record, layout) for record in page]

    def uris(self, ids: Iterable[str]) -> dict[str, str]:
        """The uris of these ids, read with the consistency of `search`. Ids that the collection does not have are left out."""
        id, uri = self._layout.id, self._layout.uri
        found: dict[str, str] = {}
        for some in chunks(distinct(ids)):
            if filter := among_any(id, some, numeric=self._layout.numeric_ids):
                rows = self._query(filter, (id, uri), consistency_level=self._connection.consistency(self.name))
                found.update((str(row[id]), str(row[uri])) for row in rows if uri in row)
        return found

    def all_stamps(self) -> Iterator[tuple[str, Stamp]]:
        """Id and stamp of every row, by ascending id, read in pages. An ingest uses this to find rows whose source is gone.

        Rows that are written or deleted meanwhile may be missing or present. Rows that were already yielded may be deleted.
        """
        self._own()
        for page in self._pages(STAMP_FIELDS):
            yield from map(_stamp, page)

    def count(self) -> int:
        """Number of rows."""
        (answer,) = self._query("", ("count(*)",))
        return int(answer["count(*)"])

    def candidates(
        self, ids: Iterable[str], embedding: Array, *, with_tokens: bool = True, deadline: Deadline = NEVER
    ) -> list[Candidate]:
        """The rows with these ids as candidates of one query, with their content. This is one Milvus call for each 2,000 ids.

        Args:
            ids: ids of rows; of repeated ones the first counts.
            embedding: the embedding of the query, float array of shape (dim,), unit length.
            with_tokens: see `search`.
            deadline: the moment by which all calls have to be done.

        Returns:
            Candidates in the order of `ids`, with their cosine as `be_score`. Ids that the collection does not have are left out.

        Raises:
            InvalidArgumentError: the shape is wrong.
            StoreTimeoutError, StoreUnavailableError, StoreError: Milvus is too slow, cannot be reached, or failed.
        """
        layout, listed = self._layout, distinct(ids)
        query = self._check_queries(embedding[None], 1)[0]
        fields = [layout.id, layout.embedding, *self._output_fields((), self._held(with_tokens=with_tokens))]
        found: dict[str, Candidate] = {}
        for some in chunks(listed):
            if filter := among_any(layout.id, some, numeric=layout.numeric_ids):
                level = self._connection.consistency(self.name)
                for record in self._query(filter, fields, consistency_level=level, deadline=deadline):
                    cosine = similarity(query, record[layout.embedding], layout)
                    row = candidate({"id": record[layout.id], "entity": record, "distance": cosine}, layout)
                    found[row.id] = row
        return [found[id] for id in listed if id in found]

    def _pages(self, fields: Sequence[str], step: int = ROWS_PER_PAGE) -> Iterator[list[dict[str, Any]]]:
        """All rows in pages, by ascending id."""
        last = ""
        while True:
            # Milvus Lite needs `iterator` and servers need `reduce_stop_for_best` to return a page in the order of ids; without
            # them, rows would be lost. On a server, `iterator` would switch off Strong consistency: pymilvus' own query_iterator
            # saw none of the fresh rows.
            order: dict[str, Any] = {"iterator": "True"} if self._connection.is_lite else {"reduce_stop_for_best": "True"}
            page = self._query(f"id > {literal(last)}", fields, limit=step, **order)
            ids = [row["id"] for row in page]
            if ids != sorted(ids):
                raise StoreError(f"Milvus returned a page of '{self.name}' out of order", expected="rows by rising id")
            # A server ends a page as soon as one of its segments has no more rows, so a short page is not the last one there.
            if not page or (self._connection.is_lite and len(page) < step):
                if page:
                    yield page
                return
            yield page
            last = ids[-1]

    def _key(self, record: Record) -> str:
        """The key of the token file that a row names; '' if it names none."""
        content = self._layout.content(record)
        return content.key if isinstance(content, TokenFile) else ""

    def _own(self) -> Layout:
        if not self._layout.ours:
            raise ForeignCollectionError(
                f"milvus-coop did not make the collection '{self.name}' and only searches it", run="milvus-coop ingest --help"
            )
        return self._layout

    def _query(
        self, filter: str, fields: Sequence[str], *, consistency_level: str = "Strong", deadline: Deadline = NEVER, **options: Any
    ) -> list[dict[str, Any]]:
        options |= {"output_fields": list(fields), "consistency_level": consistency_level}
        whole = within(self._fixed, filter)
        with self._connection.reading(deadline.wait_s()), self._own_words(filter):
            limit_s = deadline.within(self._connection.timeout_s)
            return list(self._connection.call("query", collection=self.name, timeout_s=limit_s, filter=whole, **options))

    @contextlib.contextmanager
    def _own_words(self, filter: str) -> Iterator[None]:
        """Let no error show the filter of a view. Milvus quotes the whole filter, in a form of its own."""
        try:
            yield
        except (FilterError, InvalidArgumentError) as exc:
            if not self._fixed:
                raise
            raise FilterError(
                f"Milvus rejects the filter {quoted(filter)} or another argument",
                expected="names of fields, and a Milvus expression such as: year > 2020 and tag == 'cat'",
            ) from exc
        except StoreError as exc:
            if not self._fixed:
                raise
            raise type(exc)(exc.given.replace(self._fixed, "..."), expected=exc.expected, run=exc.run) from exc

    def _check_queries(self, embeddings: Array, k: int) -> Array:
        queries = np.asarray(embeddings, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim or not np.isfinite(queries).all():
            raise InvalidArgumentError(
                f"query embeddings have shape {queries.shape}, or are not finite", expected=f"shape (n, {self.dim})"
            )
        whole_number("k", k, 1, MAX_K)
        return queries

    def _held(self, *, with_tokens: bool) -> Mapping[str, int]:
        """The content fields that a search asks for, with their usual maximum size in bytes."""
        field = self._layout.content_field
        if field is None:
            return {}
        limits = field.limits | {field.name: TYPICAL_TEXT_BYTES} if self.kind == "text" else field.limits
        unneeded = () if with_tokens else (TEXT_STATES,) if self.kind == "text" else (field.name,)
        return {name: limit for name, limit in limits.items() if name not in unneeded}

    def _output_fields(self, asked: Sequence[str], held: Iterable[str]) -> list[str]:
        """The fields to ask Milvus for, always with uri. A server ignores `*` if other names are given beside it."""
        return ["*"] if "*" in asked else list(dict.fromkeys((self._layout.uri, *held, *asked)))

    @property
    def _content_fields(self) -> tuple[str, ...]:
        field = self._layout.content_field
        return () if field is None else tuple(field.limits)

    def _runs(self, queries: Array, k: int, limit: int) -> Iterator[list[Array]]:
        """The queries in parts whose answers stay below the size limit, if each row holds `limit` bytes of content."""
        step = max(1, min(MAX_K, ANSWER_BYTES // (k * (limit + ROW_BYTES))))
        for start in range(0, len(queries), step):
            yield list(queries[start : start + step])


def _stamp(row: Mapping[str, Any]) -> tuple[str, Stamp]:
    return row["id"], Stamp(uri=row["uri"], digest=row["digest"], size=int(row["size"]), mtime_ns=int(row["mtime_ns"]))
