"""LangChain: a retriever over a collection, and a document compressor that reranks documents of other retrievers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from milvus_coop.bundle.spec import Score
from milvus_coop.search import CoopSearch
from milvus_coop.search.options import QueryOptions
from milvus_coop.serving.integrations import missing
from milvus_coop.serving.integrations.hits import metadata_of, rerank_places
from milvus_coop.serving.integrations.options import NAMES, changed

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
    from pydantic import ConfigDict, Field, PositiveInt, model_validator
    from typing_extensions import Self
except ModuleNotFoundError as exc:
    raise missing("langchain-core", "langchain") from exc

WORDS = {"k": "limit", "candidates": "k"}
"""Arguments that have another name in LangChain, with the fields of `QueryOptions` that they set."""
FIELDS = tuple(dict.fromkeys((*WORDS, *(name for name in NAMES if name != "limit"))))
"""The names of the retriever's fields that are options of a query."""


class CoopRetriever(BaseRetriever):
    """Retrieves documents with the bi-encoder and reranks them with the cross-encoder.

    The `page_content` of a document is the text, or the uri of an image. Its `id` is the id of the item. Its `metadata` holds
    `uri`, `rank`, `score`, `be_rank`, `be_score`, `ce_score`, `reranked`, `reason` (why it was not reranked), and the
    `output_fields`.

    Each field but `search` is also an argument of one call, for which it replaces the field: `invoke("a dog", k=3)`. An unknown
    argument is an `UnknownArgumentError`. The docstrings of `QueryOptions` say more about each field.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search: CoopSearch = Field(exclude=True, repr=False)
    """The search of the collection. The caller has to close it."""
    k: PositiveInt = 10
    """Number of documents to return: `limit` of `QueryOptions`."""
    candidates: PositiveInt | None = None
    """Number of candidates to rerank: `k` of `QueryOptions`."""
    offset: int = 0
    """Number of the best documents to leave out, for pages."""
    filter: str = ""
    """A Milvus boolean expression over metadata."""
    output_fields: Sequence[str] = ()
    """Names of the items' metadata to copy into the documents' metadata."""
    rerank: bool = True
    """If False, the documents are in the bi-encoder's order."""
    deadline_ms: float | None = None
    """Time limit of a query, in milliseconds; reranking stops in time to keep it."""
    score: Score | None = None
    """The score that orders the documents: `ce` or `sum`."""
    min_score: float | None = None
    """Documents with a lower match probability are left out; see `QueryOptions.min_score`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._options({})
        return self

    def _options(self, given: dict[str, Any]) -> QueryOptions:
        own = changed(QueryOptions(), {name: getattr(self, name) for name in FIELDS}, WORDS)
        # LangChain itself passes `verbose`.
        return changed(own, {name: value for name, value in given.items() if name != "verbose"}, WORDS)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **given: Any) -> list[Document]:
        result = self.search.query(query, options=self._options(given))
        return [Document(hit.text or hit.uri, id=hit.id, metadata=metadata_of(hit, result)) for hit in result]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **given: Any
    ) -> list[Document]:
        # The method of `BaseRetriever` would drop the arguments of the call.
        return await run_in_executor(
            None, partial(self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **given)
        )


class CoopDocumentCompressor(BaseDocumentCompressor):
    """Reranks documents of any retriever or vector store with the cross-encoder. The texts of the documents are not read.

    A document stands for the item of the collection that has its id. Documents without an item come last, and their metadata says
    why.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search: CoopSearch = Field(exclude=True, repr=False)
    """The search of the collection with the items. The caller has to close it."""
    top_n: PositiveInt | None = None
    """Number of documents to return; None means all."""
    id_key: str | None = None
    """Key of `metadata` that holds the id of the item; None: the document's own `id` is used."""
    deadline_ms: float | None = None
    """Time limit of a call, in milliseconds; reranking stops in time to keep it."""

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None) -> list[Document]:
        """The best `top_n` documents, best first: copies with the scores in their metadata."""
        ids = [document.id if self.id_key is None else document.metadata.get(self.id_key) for document in documents]
        places = rerank_places(self.search, query, ids=ids, limit=self.top_n, deadline_ms=self.deadline_ms)
        return [
            documents[place].model_copy(update={"metadata": {**documents[place].metadata, **scores}}) for place, scores in places
        ]
