"""The Milvus collections of one evaluation: they are filled through `CoopIngest`, copied for smaller pools, dropped at the end."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from milvus_coop.errors import BackendError, CollectionNotFoundError, DatasetError
from milvus_coop.ingest import CoopIngest, Item
from milvus_coop.ingest import Progress as IngestProgress
from milvus_coop.offline.datasets import DataProblem
from milvus_coop.offline.evaluation.corpus import EvaluationCorpus
from milvus_coop.offline.evaluation.progress import EvaluationProgress, OnProgress
from milvus_coop.offline.evaluation.systems import OpenedBundle
from milvus_coop.search import CoopSearch
from milvus_coop.search.contents import ContentReader
from milvus_coop.store import Collection, Store
from milvus_coop.store.layout import content_size
from milvus_coop.store.token_store import TokenStore
from milvus_coop.types import Array, Kind, Row, TokenFile

ROWS_PER_CALL = 500
"""Rows to read back or to copy in one call: about 5 MB."""
FILES_PER_CALL = 100
"""Token files to copy in one call. A large one has half a megabyte."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """One filled collection and its rows by item number, as Milvus returned them."""

    name: str
    kind: Kind
    rows: Mapping[int, Row]
    tokens: TokenStore | None = None
    """The store of the token files that the rows name. None if the rows hold the tokens."""

    def embeddings(self, numbers: Sequence[int]) -> Array:
        """The embeddings of these items, float32 of shape (n, dim)."""
        return np.stack([self.rows[number].embedding for number in numbers])

    def read(self, reader: ContentReader, numbers: Sequence[int], timeout_s: float) -> Mapping[str, Array]:
        """The cross-encoder's inputs for these items by input name, each of shape (n, ...).

        Raises:
            BackendError: an item cannot be read.
        """
        read = reader.read([self.rows[number].content for number in numbers], timeout_s)
        if len(read.positions) < len(numbers):
            raise BackendError(f"{len(numbers) - len(read.positions)} of {len(numbers)} {self.kind}s {reader.lack}")
        return read.side

    @property
    def content_bytes(self) -> float:
        """Mean size of the rows' content: image tokens, the name of a token file, or the text and its states."""
        return float(np.mean([content_size(row.content) for row in self.rows.values()]))


class Workbench:
    """Makes collections for one bundle, with unique names. Closing the workbench drops them."""

    def __init__(self, opened: OpenedBundle, folder: Path, on_progress: OnProgress) -> None:
        self._opened = opened
        self._folder = folder
        self._on_progress = on_progress
        self._prefix = f"milvus_coop_eval_{uuid.uuid4().hex[:12]}"
        self._names: list[str] = []
        self._store = Store.from_settings(opened.settings)

    def fill(
        self, corpus: EvaluationCorpus, language: str | None, opened: OpenedBundle
    ) -> tuple[Shelf, list[tuple[int, DataProblem]]]:
        """Ingest all images of a corpus (`language` None), or its texts in a language, with the backend of `opened`.

        Returns:
            The filled collection, and the items that could not be ingested.
        """
        kind: Kind = "image" if language is None else "text"
        n_items = len(corpus.images) if language is None else len(corpus.texts[language])
        stage = f"ingest {kind}s, {self._opened.name}"

        def show(progress: IngestProgress) -> None:
            self._on_progress(EvaluationProgress(stage, progress.done, n_items))

        name = self._new_name(kind)
        with CoopIngest(name, kind=kind, settings=self._opened.settings, models=opened.models.backend) as ingest:
            report = ingest.ingest_items(self._items(corpus, language, name), on_progress=show)
        failed = [(number_of(f.uri), f.reason) for f in report.failures]
        failures = [(number, DataProblem(_name(corpus, language, number), reason)) for number, reason in failed]
        if not report.added:
            first = failures[0][1]
            raise DatasetError(
                f"{first.place}: {first.reason}; so no {kind} of {corpus.name} can be read", expected=f"{kind}s that can be read"
            )
        collection = self._store.open(name, self._opened.spec)
        return Shelf(name, kind, _read(collection), collection.tokens), failures

    def part(self, shelf: Shelf, numbers: Sequence[int]) -> Shelf:
        """A collection with some of the items. It is the same collection if these are all items."""
        if set(numbers) == set(shelf.rows):
            return shelf
        name = self._new_name(shelf.kind)
        collection = self._store.create(name, self._opened.spec, shelf.kind)
        rows = {number: shelf.rows[number] for number in numbers}
        values = list(rows.values())
        for start in range(0, len(values), ROWS_PER_CALL):
            some = values[start : start + ROWS_PER_CALL]
            keys = [row.content.key for row in some if isinstance(row.content, TokenFile)]
            self._copy_tokens(shelf.tokens, collection.tokens, keys)
            collection.upsert(some)
        collection.flush()
        return Shelf(name, shelf.kind, rows, collection.tokens)

    @contextmanager
    def search(self, shelf: Shelf, opened: OpenedBundle | None = None) -> Iterator[CoopSearch]:
        """The shelf's collection, opened as a user would open it. `opened` may run the same bundle on another backend."""
        opened = opened or self._opened
        with CoopSearch(shelf.name, settings=opened.settings, models=opened.models.backend) as search:
            yield search

    def collection(self, shelf: Shelf) -> Collection:
        """The shelf's collection as an object of the store."""
        return self._store.open(shelf.name, self._opened.spec)

    def drop(self, shelf: Shelf) -> None:
        """Drop one collection before the end."""
        if shelf.name in self._names:
            self._names.remove(shelf.name)
            with suppress(CollectionNotFoundError):
                self._store.drop(shelf.name)

    def close(self) -> None:
        """Drop every collection that this workbench made."""
        try:
            for name in self._names:
                with suppress(CollectionNotFoundError):  # the ingest failed before it made the collection
                    self._store.drop(name)
        finally:
            self._names.clear()
            self._store.close()

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _new_name(self, kind: Kind) -> str:
        name = f"{self._prefix}_{kind}s_{uuid.uuid4().hex[:6]}"
        self._names.append(name)
        return name

    def _copy_tokens(self, source: TokenStore | None, target: TokenStore | None, keys: Sequence[str]) -> None:
        if source is None or target is None:
            return
        for start in range(0, len(keys), FILES_PER_CALL):
            some = keys[start : start + FILES_PER_CALL]
            found = source.read(some, self._opened.spec.tokens.n_bytes)
            target.write({key: bytes(raw) for key, raw in zip(some, found, strict=True) if raw is not None})

    def _items(self, corpus: EvaluationCorpus, language: str | None, name: str) -> list[Item]:
        """The items of the corpus. An item's uri is its number, or a path that ends in the number; see `number_of`."""
        if language is not None:
            return [Item(str(n), text=text.text) for n, text in enumerate(corpus.texts[language])]
        uris = [str(n) for n in range(len(corpus.images))]
        if self._opened.spec.tokens.keep == "nowhere":  # the cross-encoder opens images at their uri
            uris = _links(self._folder.absolute() / f"{name}_images", [image.path for image in corpus.images])
        return [Item(uri, image.path) for uri, image in zip(uris, corpus.images, strict=True)]


def _read(collection: Collection) -> dict[int, Row]:
    ids = [id for id, _ in collection.all_stamps()]
    rows: dict[int, Row] = {}
    for start in range(0, len(ids), ROWS_PER_CALL):
        rows |= {number_of(row.uri): row for row in collection.rows(ids[start : start + ROWS_PER_CALL]).values()}
    return dict(sorted(rows.items()))


def number_of(uri: str) -> int:
    """The number of the item with that uri."""
    return int(PurePosixPath(uri).name)


def _links(folder: Path, paths: Sequence[Path]) -> list[str]:
    folder.mkdir()
    links = [folder / str(number) for number in range(len(paths))]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path.absolute())
    return [link.as_posix() for link in links]


def _name(corpus: EvaluationCorpus, language: str | None, number: int) -> str:
    return str(corpus.images[number].path) if language is None else corpus.texts[language][number].text[:80]
