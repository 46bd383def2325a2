"""Haystack: search the sample images, then rerank the results of a keyword search over their names, in pipelines.

Run `python examples/haystack/photos.py`, after `pip install 'milvus-coop[haystack]'`. It takes seconds and keeps nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # Haystack reads it when it is imported

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from milvus_coop import CoopIngest
from milvus_coop.serving.integrations.haystack import CoopRanker, CoopRetriever

IMAGES = Path(__file__).parent.parent / "images"
QUERY = "people playing instruments on a stage"


def name(image: Document) -> str:
    """The words in the name of the image's file."""
    return Path(image.meta["uri"]).stem.replace("_", " ")


def show(title: str, documents: Sequence[Document]) -> None:
    """Print a small table."""
    print(title)
    for position, document in enumerate(documents[:5], start=1):
        print(f"{position:2} {Path(document.meta['uri']).name:24} {document.score:.3f}")


with tempfile.TemporaryDirectory() as folder:
    uri = str(Path(folder, "photos.db"))
    with CoopIngest("photos", uri=uri) as ingest:
        ingest.run([IMAGES])

    search = Pipeline()
    search.add_component("retriever", CoopRetriever("photos", uri=uri, top_k=100))
    images = search.run({"retriever": {"query": QUERY}})["retriever"]["documents"]
    show("CoopRetriever", images)

    # Any retriever can be used whose documents have the ids of the items. This one knows only the names of the files.
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=p.id, content=f"a picture of {name(p)}", meta={"uri": p.meta["uri"]}) for p in images])
    hybrid = Pipeline()
    hybrid.add_component("keywords", InMemoryBM25Retriever(store, top_k=100))
    hybrid.add_component("ranker", CoopRanker("photos", uri=uri, top_k=5))
    hybrid.connect("keywords", "ranker")
    answer = hybrid.run({"keywords": {"query": QUERY}, "ranker": {"query": QUERY}}, include_outputs_from={"keywords"})
    show("\nInMemoryBM25Retriever over file names", answer["keywords"]["documents"])
    show("\nthe same, through CoopRanker", answer["ranker"]["documents"])

    for pipeline in (search, hybrid):
        pipeline.close()
