"""LangChain: a retriever over a collection, and a document compressor that reranks documents of other retrievers."""

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
    """Retrieves documents with the bi-encoder and reranks them with the cross-encoder.

    The `page_content` of a document is the text, or the uri of an image. Its `id` is the id of the item. Its `metadata` holds
    `uri`, `rank`, `score`, `be_rank`, `be_score`, `ce_score`, `reranked`, `reason` (why it was not reranked), and the
    `output_fields`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search: CoopSearch
    """The search of the collection. The caller has to close it."""
    k: PositiveInt = 10
    """Number of documents to return."""
    candidates: PositiveInt | None = None
    """Number of candidates to rerank: `k` of `CoopSearch.query`."""
    filter: str = ""
    """A Milvus boolean expression over metadata."""
    output_fields: Sequence[str] = ()
    """Names of the items' metadata to copy into the documents' metadata."""
    deadline_ms: float | None = None
    """Time limit of a query, in milliseconds; reranking stops in time to keep it."""

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
    """Reranks documents of any retriever or vector store with the cross-encoder. The texts of the documents are not read.

    A document stands for the item of the collection that has its id. Documents without an item come last, and their metadata says
    why.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    search: CoopSearch
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
