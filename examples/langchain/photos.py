"""LangChain: search the sample images, then rerank the results of a LangChain vector store.

Run `python examples/langchain/photos.py`, after `pip install 'milvus-coop[langchain]'`. It takes seconds and keeps nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from milvus_coop import CoopIngest, CoopSearch
from milvus_coop.serving.integrations.langchain import CoopDocumentCompressor, CoopRetriever

IMAGES = Path(__file__).parent.parent / "images"
QUERY = "a boat on the water"


def show(title: str, documents: Sequence[Document]) -> None:
    """Print a small table."""
    print(title)
    for position, document in enumerate(documents[:5], start=1):
        score = document.metadata.get("score")
        print(f"{position:2} {Path(document.page_content).name:24} {'' if score is None else f'{score:.3f}'}".rstrip())


with tempfile.TemporaryDirectory() as folder:
    with CoopIngest("photos", uri=Path(folder, "photos.db")) as ingest:
        ingest.run([IMAGES])
    with CoopSearch("photos", uri=Path(folder, "photos.db")) as search:
        retriever = CoopRetriever(search=search, k=100)
        documents = retriever.invoke(QUERY)
        show("CoopRetriever", documents)

        # Any retriever can be used whose documents have the ids of the items. This one returns items in random order.
        store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
        store.add_documents([Document(document.page_content, id=document.id) for document in documents])
        found = store.similarity_search(QUERY, k=100)
        show("\nInMemoryVectorStore with random embeddings", found)

        compressor = CoopDocumentCompressor(search=search, top_n=5)
        show("\nthe same, through CoopDocumentCompressor", compressor.compress_documents(found, QUERY))
