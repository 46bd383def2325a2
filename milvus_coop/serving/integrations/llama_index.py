"""LlamaIndex: a retriever over a collection, and a node postprocessor that reranks nodes of other retrievers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from copy import copy
from typing import Any

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.models.preprocess.uris import local_path
from milvus_coop.search import CoopSearch
from milvus_coop.search.options import QueryOptions
from milvus_coop.serving.integrations import missing
from milvus_coop.serving.integrations.hits import SCORES, metadata_of, rerank_places
from milvus_coop.serving.integrations.options import changed
from milvus_coop.types import Hit

try:
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import BaseNode, ImageNode, IndexNode, NodeWithScore, QueryBundle, QueryType, TextNode
    from pydantic import Field, PositiveInt
except ModuleNotFoundError as exc:
    raise missing("llama-index-core", "llama-index") from exc


WORDS = {"similarity_top_k": "limit", "candidates": "k"}
"""Arguments that have another name in LlamaIndex, with the fields of `QueryOptions` that they set."""


class CoopRetriever(BaseRetriever):
    """Retrieves nodes with the bi-encoder and reranks them with the cross-encoder.

    Images are `ImageNode`s, with `image_path` if the uri names a file of this machine and `image_url` if it is http(s). Texts are
    `TextNode`s. The id of a node is the id of its item. Its `metadata` holds `uri`, `rank`, `score`, `be_rank`, `be_score`,
    `ce_score`, `reranked`, `reason` (why it was not reranked), and the `output_fields`. LLMs and embeddings read only the uri and
    the `output_fields`. A `QueryBundle` with an `image_path` searches with that image instead of the text.
    """

    def __init__(
        self,
        search: CoopSearch,
        *,
        options: QueryOptions | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
        **changes: Any,
    ) -> None:
        """Make a retriever.

        Args:
            search: the search of the collection. The caller has to close it.
            options: the options of each query; default `QueryOptions()`.
            callback_manager: see LlamaIndex's `BaseRetriever`; so are `object_map`, `objects` and `verbose`.
            object_map: see above.
            objects: see above.
            verbose: see above.
            changes: other values for fields of the options: `filter="year > 2020"`, `output_fields=["year"]`, ... Two have another
                name in LlamaIndex: `similarity_top_k` is the number of nodes to return (`limit`), `candidates` the number of
                candidates to rerank (`k`).

        Raises:
            UnknownArgumentError: there is no such option.
            InvalidArgumentError: a value has the wrong type or is out of range.
        """
        self._options = changed(options or QueryOptions(), changes, WORDS)
        super().__init__(callback_manager=callback_manager, object_map=object_map, objects=objects, verbose=verbose)
        self._search = search

    def retrieve(self, str_or_query_bundle: QueryType, **changes: Any) -> list[NodeWithScore]:
        """The best nodes for a query. `changes`: options of this call, with the names and the errors of `__init__`."""
        return super(CoopRetriever, self._changed(changes)).retrieve(str_or_query_bundle)

    async def aretrieve(self, str_or_query_bundle: QueryType, **changes: Any) -> list[NodeWithScore]:
        """`retrieve`, without blocking the event loop."""
        return await super(CoopRetriever, self._changed(changes)).aretrieve(str_or_query_bundle)

    def _changed(self, changes: Mapping[str, Any]) -> CoopRetriever:
        if not changes:
            return self
        other = copy(self)
        other._options = changed(self._options, changes, WORDS)
        return other

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        result = self._search.query(**_query(query_bundle), options=self._options)
        return [NodeWithScore(node=_told(_node(hit), metadata_of(hit, result)), score=hit.score) for hit in result]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class CoopPostprocessor(BaseNodePostprocessor):
    """Reranks nodes of any retriever with the cross-encoder. The contents of the nodes are not read.

    A node stands for the item of the collection that has its id. Nodes without an item come last, and their metadata says why.
    """

    search: CoopSearch = Field(exclude=True, repr=False)
    """The search of the collection with the items. The caller has to close it."""
    top_n: PositiveInt | None = None
    """Number of nodes to return; None means all."""
    id_key: str | None = None
    """Key of `metadata` that holds the id of the item; None: the node's own id is used."""
    deadline_ms: float | None = None
    """Time limit of a call, in milliseconds; reranking stops in time to keep it."""

    @classmethod
    def class_name(cls) -> str:
        """The name of this class in LlamaIndex."""
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
    """A copy of the node with this metadata added. The scores in it are hidden from LLMs and embeddings."""
    hidden = {
        name: list(dict.fromkeys((*getattr(node, name), *SCORES)))
        for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
    }
    return node.model_copy(update={"metadata": {**node.metadata, **metadata}, **hidden})
