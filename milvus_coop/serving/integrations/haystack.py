"""Haystack: a retriever over a collection, and a ranker for what other retrievers found.

A pipeline with these components can be saved and loaded: `Pipeline.load(file, allowed_modules=["milvus_coop.*"])`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from threading import Lock
from typing import Any

from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.search import CoopSearch
from milvus_coop.search.pictures import local_path
from milvus_coop.serving.integrations import missing
from milvus_coop.serving.integrations.hits import metadata_of, rerank_places
from milvus_coop.store.address import parse_address
from milvus_coop.types import Hit, SearchResult

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import Secret
    from typing_extensions import Self
except ModuleNotFoundError as exc:
    raise missing("haystack-ai", "haystack") from exc

TOKEN = Secret.from_env_var("MILVUS_COOP_TOKEN", strict=False)


_opening = Lock()
"""Of all components: pipelines run them in threads."""


class _Component:
    """Opens the collection when it is first needed, and saves where it is."""

    def __init__(
        self, search: CoopSearch | None, token: Secret | None, settings: Mapping[str, str | float | None], **options: Any
    ) -> None:
        secrets = [item.name for item in fields(Settings) if not item.repr and settings.get(item.name)]
        if parse_address(Settings().override(**settings).uri).token:
            secrets.append("the password in uri")
        if secrets:
            raise InvalidArgumentError(
                f"{secrets[0]} would be saved with the component",
                expected="a Secret of Haystack as token, or an environment variable",
            )
        self._search = search
        self._is_given = search is not None
        self._token = token
        self._settings = settings
        self._options = options

    def warm_up(self) -> None:
        """Open the collection and load the models, unless that is done."""
        self._opened()

    def close(self) -> None:
        """Give back what `warm_up` opened."""
        if self._search is not None and not self._is_given:
            self._search.close()
            self._search = None

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to make the component again, but no secret: of the token only where it comes from.

        Raises:
            InvalidArgumentError: it was made from a `CoopSearch`.
        """
        if self._is_given:
            raise InvalidArgumentError("a component that was given a CoopSearch cannot be saved", expected="collection=, uri=, ...")
        return default_to_dict(self, **self._settings, token=self._token, **self._options)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The component that `to_dict` saved."""
        return default_from_dict(cls, data)

    def _opened(self) -> CoopSearch:
        with _opening:
            if self._search is None:
                token = self._token.resolve_value() if self._token else None
                self._search = CoopSearch(settings=Settings.from_env().override(**self._settings, token=token))
            return self._search


@component
class CoopRetriever(_Component):
    """Retrieves with the bi-encoder, reranks with the cross-encoder.

    A document's id is the item's. Its `content` is the item's text; a picture has none, but `meta["file_path"]` where its uri is a
    file of this machine. `meta` holds `uri`, `rank`, `score`, `be_rank`, `be_score`, `ce_score`, `reranked`, `reason` (why not
    reranked), and the `output_fields`.

    Args:
        collection: name of the collection.
        search: an open one instead of its name; it stays yours to close, and the component cannot be saved.
        token: of a Milvus server.
        top_k: how many documents to return.
        candidates: how many candidates to rerank: `k` of `CoopSearch.query`.
        filters: a Milvus boolean expression over metadata.
        output_fields: metadata of the items to put into the documents'.
        deadline_ms: stop reranking so that a run ends within this time.
        settings: `uri`, `bundle`, `models` and other fields of `milvus_coop.config.Settings`; those that are not given come from
            the environment (MILVUS_COOP_URI, ...) when the component is warmed up.
    """

    def __init__(
        self,
        collection: str | None = None,
        *,
        search: CoopSearch | None = None,
        token: Secret | None = TOKEN,
        top_k: int = 10,
        candidates: int | None = None,
        filters: str = "",
        output_fields: Sequence[str] = (),
        deadline_ms: float | None = None,
        **settings: str | float | None,
    ) -> None:
        options = {"top_k": top_k, "candidates": candidates, "filters": filters, "output_fields": list(output_fields)}
        # Not super(): the decorator makes another class of this one.
        _Component.__init__(self, search, token, {"collection": collection, **settings}, **options, deadline_ms=deadline_ms)

    @component.output_types(documents=list[Document])
    def run(self, query: str, filters: str | None = None, top_k: int | None = None) -> dict[str, list[Document]]:
        """Search with a text; `filters` and `top_k` replace those of the component."""
        options = self._options
        result = self._opened().query(
            query,
            limit=options["top_k"] if top_k is None else top_k,
            k=options["candidates"],
            filter=options["filters"] if filters is None else filters,
            output_fields=options["output_fields"],
            deadline_ms=options["deadline_ms"],
        )
        return {"documents": [_document(hit, result) for hit in result]}


@component
class CoopRanker(_Component):
    """Reranks documents of any retriever with the cross-encoder; their contents are not read.

    A document stands for the item of the collection whose id it has. Those without an item come last, and their `meta` says why.

    Args:
        collection, search, token, deadline_ms, settings: as of `CoopRetriever`.
        top_k: how many documents to return; None: all.
        id_meta_field: field of `meta` that holds an item's id; None: it is the document's own id.
    """

    def __init__(
        self,
        collection: str | None = None,
        *,
        search: CoopSearch | None = None,
        token: Secret | None = TOKEN,
        top_k: int | None = None,
        id_meta_field: str | None = None,
        deadline_ms: float | None = None,
        **settings: str | float | None,
    ) -> None:
        options = {"top_k": top_k, "id_meta_field": id_meta_field, "deadline_ms": deadline_ms}
        _Component.__init__(self, search, token, {"collection": collection, **settings}, **options)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Rerank documents by a text; `top_k` replaces that of the component."""
        options = self._options
        key = options["id_meta_field"]
        ids = [document.id if key is None else document.meta.get(key) for document in documents]
        limit = options["top_k"] if top_k is None else top_k
        places = rerank_places(self._opened(), query, ids=ids, limit=limit, deadline_ms=options["deadline_ms"])
        return {"documents": [_told(documents[place], scores) for place, scores in places]}


def _told(document: Document, scores: dict[str, Any]) -> Document:
    return replace(document, score=scores["score"], meta={**document.meta, **scores})


def _document(hit: Hit, result: SearchResult) -> Document:
    path = local_path(hit.uri) if hit.text is None else None
    meta = metadata_of(hit, result) | ({} if path is None else {"file_path": str(path)})
    return Document(id=hit.id, content=hit.text, meta=meta, score=hit.score)
