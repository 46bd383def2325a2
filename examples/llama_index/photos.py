"""LlamaIndex: search the sample images, then rerank the results of a LlamaIndex index.

Run `python examples/llama_index/photos.py`, after `pip install 'milvus-coop[llama-index]'`. It takes seconds and keeps nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import NodeWithScore, TextNode

from milvus_coop import CoopIngest, CoopSearch
from milvus_coop.serving.integrations.llama_index import CoopPostprocessor, CoopRetriever

IMAGES = Path(__file__).parent.parent / "images"
QUERY = "a boat on the water"


def show(title: str, nodes: Sequence[NodeWithScore]) -> None:
    """Print a small table."""
    print(title)
    for position, scored in enumerate(nodes[:5], start=1):
        print(f"{position:2} {Path(scored.node.metadata['uri']).name:24} {scored.get_score():.3f}")


with tempfile.TemporaryDirectory() as folder:
    with CoopIngest("photos", uri=Path(folder, "photos.db")) as ingest:
        ingest.run([IMAGES])
    with CoopSearch("photos", uri=Path(folder, "photos.db")) as search:
        images = CoopRetriever(search, similarity_top_k=100).retrieve(QUERY)
        show("CoopRetriever", images)

        # Any retriever can be used whose nodes have the ids of the items. For this one all nodes are equal.
        nodes = [TextNode(id_=p.node.node_id, metadata={"uri": p.node.metadata["uri"]}) for p in reversed(images)]
        index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))
        found = index.as_retriever(similarity_top_k=100).retrieve(QUERY)
        show("\nVectorStoreIndex with equal embeddings", found)

        postprocessor = CoopPostprocessor(search=search, top_n=5)
        show("\nthe same, through CoopPostprocessor", postprocessor.postprocess_nodes(found, query_str=QUERY))
