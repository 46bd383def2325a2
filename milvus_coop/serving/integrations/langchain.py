"""LangChain: a retriever over a collection, and a document compressor that reranks what other retrievers found."""

from __future__ import annotations

from collections.abc import Sequence

from milvus_coop.search import CoopSearch
from milvus_coop.serving.integrations import missing
from milvus_coop.serving.integrations.hits import metadata_of, rerank_places

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, PositiveInt
except ModuleNotFoundError as exc:
    raise missing("langchain-core", "langchain") from exc


class CoopRetriever(BaseRetriever):
    """Retrieves with the bi-encoder, reranks with the cross-encoder.

    A document's `page_content` is the item's text, and of a picture its uri; its `id` is the item's. Its `metadata` holds `uri`,
    `rank`, `score`, `be_rank`, `be_score`, `ce_score`, `reranked`, `reason` (why not reranked), and the `output_fields`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search: CoopSearch
    """Of the collection; it stays yours to close."""
    k: PositiveInt = 10
    """How many documents to return."""
    candidates: PositiveInt | None = None
    """How many candidates to rerank: `k` of `CoopSearch.query`."""
    filter: str = ""
    """A Milvus boolean expression over metadata."""
    output_fields: Sequence[str] = ()
    """Metadata of the items to put into the documents'."""
    deadline_ms: float | None = None
    """Stop reranking so that a query ends within this time."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        result = self.search.query(
            query,
            limit=self.k,
            k=self.candidates,
            filter=self.filter,
            output_fields=self.output_fields,
            deadline_ms=self.deadline_ms,
        )
        return [Document(hit.text or hit.uri, id=hit.id, metadata=metadata_of(hit, result)) for hit in result]


class CoopDocumentCompressor(BaseDocumentCompressor):
    """Reranks documents of any retriever or vector store with the cross-encoder; their texts are not read.

    A document stands for the item of the collection whose id it has. Those without an item come last, and their metadata says why.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search: CoopSearch
    """Of the collection with the items; it stays yours to close."""
    top_n: PositiveInt | None = None
    """How many documents to return; None: all."""
    id_key: str | None = None
    """Key of `metadata` that holds an item's id; None: it is the document's own `id`."""
    deadline_ms: float | None = None
    """Stop reranking so that a call ends within this time."""

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None) -> list[Document]:
        """The best `top_n` documents, best first: copies with the scores in their metadata."""
        ids = [document.id if self.id_key is None else document.metadata.get(self.id_key) for document in documents]
        places = rerank_places(self.search, query, ids=ids, limit=self.top_n, deadline_ms=self.deadline_ms)
        return [
            documents[place].model_copy(update={"metadata": {**documents[place].metadata, **scores}}) for place, scores in places
        ]
