"""Haystack: a retriever over a collection, and a ranker for documents of other retrievers.

A pipeline with these components can be saved and loaded: `Pipeline.load(file, allowed_modules=["milvus_coop.*"])`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from threading import Lock
from typing import Any, get_type_hints

from milvus_coop.config import Settings
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.preprocess.uris import local_path
from milvus_coop.search import CoopSearch
from milvus_coop.search.options import QueryArguments, QueryOptions
from milvus_coop.serving.integrations import missing
from milvus_coop.serving.integrations.hits import metadata_of, rerank_places
from milvus_coop.serving.integrations.options import NAMES, changed
from milvus_coop.types import Hit, SearchResult

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import Secret
    from typing_extensions import Self
except ModuleNotFoundError as exc:
    raise missing("haystack-ai", "haystack") from exc

TOKEN = Secret.from_env_var("MILVUS_COOP_TOKEN", strict=False)


WORDS = {"top_k": "limit", "candidates": "k", "filters": "filter"}
"""Arguments that have another name in Haystack, with the fields of `QueryOptions` that they set."""
OTHERS = tuple(name for name in NAMES if name not in WORDS.values())
"""The fields of `QueryOptions` that keep their name."""
_TYPES = get_type_hints(QueryArguments)
_PASSWORD = re.compile(r"(https?|tritons?)://[^/?#\s]*@|://[^/\s]*:[^/\s]*@", re.IGNORECASE)
"""Matches addresses with a secret. The user of an http address is one, the container of abfs://container@account is not."""

_opening = Lock()
"""A lock of all components, because pipelines run them in threads."""


class _Component:
    """A component that opens its collection when it is first needed, and that can be saved without secrets."""

    def __init__(
        self, search: CoopSearch | None, token: Secret | None, settings: Mapping[str, str | float | None], **options: Any
    ) -> None:
        if token is not None and not isinstance(token, Secret):
            raise InvalidArgumentError(
                "token is not a Secret of Haystack, and would be saved with the component",
                expected='Secret.from_env_var("MILVUS_COOP_TOKEN"), or Secret.from_token(...) for a component that is never saved',
            )
        Settings().override(**settings)  # refuses unknown ones
        secrets = [item.name for item in fields(Settings) if not item.repr and settings.get(item.name)]
        secrets += [f"the password in {name}" for name, value in settings.items() if _PASSWORD.search(str(value))]
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
        """Open the collection and load the models, if that is not done yet."""
        self._opened()

    def close(self) -> None:
        """Close the search that `warm_up` opened."""
        if self._search is not None and not self._is_given:
            self._search.close()
            self._search = None

    def to_dict(self) -> dict[str, Any]:
        """Everything that is needed to make the component again, without secrets. Of the token, only its source is saved.

        Raises:
            InvalidArgumentError: the component was made from a `CoopSearch`.
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
    """Retrieves documents with the bi-encoder and reranks them with the cross-encoder.

    The id of a document is the id of its item. The `content` of a text is the text. An image has no content, but has
    `meta["file_path"]` if its uri names a file of this machine. `meta` holds `uri`, `rank`, `score`, `be_rank`, `be_score`,
    `ce_score`, `reranked`, `reason` (why it was not reranked), and the `output_fields`.

    Args:
        collection: name of the collection.
        search: an open `CoopSearch` instead of the name. The caller has to close it, and the component cannot be saved.
        token: API key of a Milvus server, or `user:password`.
        top_k: number of documents to return.
        candidates: number of candidates to rerank: `k` of `CoopSearch.query`.
        filters: a Milvus boolean expression over metadata.
        others: the other fields of `QueryOptions`, such as `output_fields` (metadata to copy into `meta`) and `deadline_ms`; and
            `uri`, `bundle`, `models` and other fields of `milvus_coop.config.Settings`. Settings that are not given come from the
            environment (MILVUS_COOP_URI, ...) when the component is warmed up.
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
        **others: Any,
    ) -> None:
        given = {name: others.pop(name) for name in OTHERS if name in others}
        options = {"top_k": top_k, "candidates": candidates, "filters": filters, **given}
        self._query_options = changed(QueryOptions(), options, WORDS)
        if "output_fields" in options:
            options["output_fields"] = list(self._query_options.output_fields)  # what YAML can hold
        # Not super(): the decorator makes another class of this one.
        _Component.__init__(self, search, token, {"collection": collection, **others}, **options)
        component.set_input_types(self, query=str)
        for name in (*WORDS, *OTHERS):
            component.set_input_type(self, name, _TYPES[WORDS.get(name, name)] | None, default=None)

    @component.output_types(documents=list[Document])
    def run(self, query: str, **given: Any) -> dict[str, list[Document]]:
        """Search with a text. Other arguments, such as `top_k` and `filters`, replace those of the component unless they are None.

        Raises:
            UnknownArgumentError: there is no such option.
            InvalidArgumentError: a value has the wrong type or is out of range.
        """
        options = changed(self._query_options, {name: value for name, value in given.items() if value is not None}, WORDS)
        result = self._opened().query(query, options=options)
        return {"documents": [_document(hit, result) for hit in result]}


@component
class CoopRanker(_Component):
    """Reranks documents of any retriever with the cross-encoder. The contents of the documents are not read.

    A document stands for the item of the collection that has its id. Documents without an item come last; their `meta` says why.

    Args:
        collection, search, token: see `CoopRetriever`.
        deadline_ms: time limit of a run; see `QueryOptions`.
        settings: fields of `milvus_coop.config.Settings`, as for `CoopRetriever`.
        top_k: number of documents to return; None means all.
        id_meta_field: field of `meta` that holds the id of the item; None: the document's own id is used.
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
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, deadline_ms: float | None = None
    ) -> dict[str, list[Document]]:
        """Rerank documents by a text; `top_k` and `deadline_ms` replace those of the component."""
        options = self._options
        key = options["id_meta_field"]
        ids = [document.id if key is None else document.meta.get(key) for document in documents]
        limit = options["top_k"] if top_k is None else top_k
        limit_ms = options["deadline_ms"] if deadline_ms is None else deadline_ms
        places = rerank_places(self._opened(), query, ids=ids, limit=limit, deadline_ms=limit_ms)
        return {"documents": [_told(documents[place], scores) for place, scores in places]}


def _told(document: Document, scores: dict[str, Any]) -> Document:
    return replace(document, score=scores["score"], meta={**document.meta, **scores})


def _document(hit: Hit, result: SearchResult) -> Document:
    path = local_path(hit.uri) if hit.text is None else None
    meta = metadata_of(hit, result) | ({} if path is None else {"file_path": str(path)})
    return Document(id=hit.id, content=hit.text, meta=meta, score=hit.score)
