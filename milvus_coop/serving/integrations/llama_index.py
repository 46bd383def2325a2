"""LlamaIndex: a retriever over a collection, and a node postprocessor that reranks what other retrievers found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.search import CoopSearch
from milvus_coop.search.pictures import local_path
from milvus_coop.serving.integrations import missing
from milvus_coop.serving.integrations.hits import SCORES, metadata_of, rerank_places
from milvus_coop.types import Hit

try:
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import BaseNode, ImageNode, NodeWithScore, QueryBundle, TextNode
    from pydantic import Field, PositiveInt
except ModuleNotFoundError as exc:
    raise missing("llama-index-core", "llama-index") from exc


class CoopRetriever(BaseRetriever):
    """Retrieves with the bi-encoder, reranks with the cross-encoder.

    Pictures are `ImageNode`s, with `image_path` where the uri is a file of this machine and `image_url` where it is http(s); texts
    are `TextNode`s. A node's id is the item's; its `metadata` holds `uri`, `rank`, `score`, `be_rank`, `be_score`, `ce_score`,
    `reranked`, `reason` (why not reranked), and the `output_fields`. Of these an LLM or an embedding reads only the uri and the
    `output_fields`. A `QueryBundle` with an `image_path` searches with that picture instead of the text.
    """

    def __init__(
        self,
        search: CoopSearch,
        *,
        similarity_top_k: int = 10,
        candidates: int | None = None,
        filter: str = "",
        output_fields: Sequence[str] = (),
        deadline_ms: float | None = None,
        **options: Any,
    ) -> None:
        """Make a retriever.

        Args:
            search: of the collection; it stays yours to close.
            similarity_top_k: how many nodes to return.
            candidates: how many candidates to rerank: `k` of `CoopSearch.query`.
            filter: a Milvus boolean expression over metadata.
            output_fields: metadata of the items to put into the nodes'.
            deadline_ms: stop reranking so that a query ends within this time.
            options: of LlamaIndex's `BaseRetriever`.
        """
        super().__init__(**options)
        self._search = search
        self._options: dict[str, Any] = {
            "limit": similarity_top_k,
            "k": candidates,
            "filter": filter,
            "output_fields": output_fields,
            "deadline_ms": deadline_ms,
        }

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        result = self._search.query(**_query(query_bundle), **self._options)
        return [NodeWithScore(node=_told(_node(hit), metadata_of(hit, result)), score=hit.score) for hit in result]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class CoopPostprocessor(BaseNodePostprocessor):
    """Reranks nodes of any retriever with the cross-encoder; their contents are not read.

    A node stands for the item of the collection whose id it has. Those without an item come last, and their metadata says why.
    """

    search: CoopSearch = Field(exclude=True)
    """Of the collection with the items; it stays yours to close."""
    top_n: PositiveInt | None = None
    """How many nodes to return; None: all."""
    id_key: str | None = None
    """Key of `metadata` that holds an item's id; None: it is the node's own id."""
    deadline_ms: float | None = None
    """Stop reranking so that a call ends within this time."""

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows this class."""
        return "CoopPostprocessor"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InvalidArgumentError("there is no query to rerank by", expected="query_str or query_bundle")
        found = [scored.node for scored in nodes]
        ids = [node.node_id if self.id_key is None else node.metadata.get(self.id_key) for node in found]
        places = rerank_places(self.search, **_query(query_bundle), ids=ids, limit=self.top_n, deadline_ms=self.deadline_ms)
        return [NodeWithScore(node=_told(found[place], scores), score=scores["score"]) for place, scores in places]


def _query(bundle: QueryBundle) -> dict[str, Any]:
    return {"text": bundle.query_str} if bundle.image_path is None else {"image": bundle.image_path}


def _node(hit: Hit) -> TextNode:
    if hit.text is not None:
        return TextNode(id_=hit.id, text=hit.text)
    path = local_path(hit.uri)
    url = hit.uri if hit.uri.startswith(("http://", "https://")) else None
    return ImageNode(id_=hit.id, image_path=None if path is None else str(path), image_url=url)


def _told(node: BaseNode, metadata: dict[str, Any]) -> BaseNode:
    """A copy of the node with this metadata too, of which an LLM or an embedding does not read the scores."""
    hidden = {
        name: list(dict.fromkeys((*getattr(node, name), *SCORES)))
        for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
    }
    return node.model_copy(update={"metadata": {**node.metadata, **metadata}, **hidden})
