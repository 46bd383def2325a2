"""The LlamaIndex classes in LlamaIndex: texts and pictures as queries, and behind one of its own indices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import BaseNode, ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

from milvus_coop import CoopSearch, QueryOptions
from milvus_coop.errors import InvalidArgumentError, UnknownArgumentError
from milvus_coop.serving.integrations.llama_index import CoopPostprocessor, CoopRetriever
from tests.integrations.kit import BEST, QUERY, ROOT, Told, assert_alike, expected

PHOTO = ROOT / "examples" / "images" / "dog.jpg"


def told(nodes: Sequence[NodeWithScore]) -> list[Told]:
    return [(n.node.node_id, n.score, n.node.metadata["ce_score"]) for n in nodes]


def test_the_retriever_answers_as_a_search_does(search: CoopSearch) -> None:
    retriever = CoopRetriever(search, similarity_top_k=5, output_fields=["name"])
    found = retriever.retrieve(QUERY)
    assert told(found) == expected(search.query(QUERY, limit=5))
    node = found[0].node
    assert isinstance(node, ImageNode)
    assert Path(node.image_path or "").name == BEST
    assert node.image_url is None
    assert (node.metadata["name"], node.metadata["reranked"], node.metadata["reason"]) == ("sailing_boat", True, None)
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert node.get_metadata_str(mode).splitlines() == ["name: sailing_boat", f"uri: {node.metadata['uri']}"]
    assert asyncio.run(retriever.aretrieve(QUERY)) == found


def test_a_picture_as_the_query(search: CoopSearch, captions: CoopSearch) -> None:
    bundle = QueryBundle("", image_path=str(PHOTO))
    found = CoopRetriever(captions, similarity_top_k=3).retrieve(bundle)
    assert told(found) == expected(captions.query(image=PHOTO, limit=3))
    assert isinstance(found[0].node, TextNode)
    assert "dog" in found[0].node.text
    assert found[0].node.metadata["reranked"]
    mended = CoopPostprocessor(search=captions).postprocess_nodes(found[::-1], bundle)
    assert_alike(told(mended), told(found))
    same = CoopRetriever(search).retrieve(bundle)[0].node
    assert same.metadata["uri"].endswith("dog.jpg")
    assert "both images" in same.metadata["reason"]


def test_no_hits_and_a_degraded_search(search: CoopSearch, degraded: CoopSearch) -> None:
    assert CoopRetriever(search, filter='name == "nothing"').retrieve(QUERY) == []
    found = CoopRetriever(degraded).retrieve(QUERY)
    assert {n.node.metadata["reason"] for n in found} == {"the cross-encoder failed: the server is away"}
    given = found[::-1]
    kept = CoopPostprocessor(search=degraded).postprocess_nodes(given, query_str=QUERY)
    assert [n.node.node_id for n in kept] == [n.node.node_id for n in given]


def test_the_postprocessor_mends_the_order_of_an_index(search: CoopSearch) -> None:
    coop = CoopRetriever(search, similarity_top_k=44).retrieve(QUERY)
    nodes: list[BaseNode] = [TextNode(id_=n.node.node_id, text=f"picture {n.node.node_id}") for n in reversed(coop)]
    found = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4)).as_retriever(similarity_top_k=44).retrieve(QUERY)
    assert len(found) == 44
    assert found[0].node.node_id != coop[0].node.node_id
    postprocessor = CoopPostprocessor(search=search, top_n=5)
    mended = postprocessor.postprocess_nodes(found, query_str=QUERY)
    assert_alike(told(mended), told(coop[:5]))
    assert "ce_score" not in found[0].node.metadata, "nodes of others are not changed"
    assert mended[0].node.get_content(MetadataMode.LLM) == f"picture {coop[0].node.node_id}"
    assert told(asyncio.run(postprocessor.apostprocess_nodes(found, query_str=QUERY))) == told(mended)
    assert "search" not in postprocessor.to_dict()


def test_nodes_without_an_item_come_last(search: CoopSearch) -> None:
    best, second = (hit.id for hit in search.query(QUERY, limit=2))
    given = [NodeWithScore(node=TextNode(text=text, metadata={"item": id}), score=1.0) for text, id in
             (("unknown", "x"), ("none", None), ("second", second), ("best", best))]  # fmt: skip
    found = CoopPostprocessor(search=search, id_key="item").postprocess_nodes(given, query_str=QUERY)
    assert [n.node.get_content() for n in found] == ["best", "second", "unknown", "none"]
    assert (found[2].score, found[2].node.metadata["reason"]) == (None, "the collection has no item of this id")
    assert CoopPostprocessor(search=search).postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InvalidArgumentError, match="no query"):
        CoopPostprocessor(search=search).postprocess_nodes(given)


def test_arguments_of_a_call_hold_for_this_call(search: CoopSearch) -> None:
    retriever = CoopRetriever(search, similarity_top_k=3, filter='name == "apple"')
    given = {"similarity_top_k": 2, "candidates": 4, "filter": 'name != "sailing_boat"', "offset": 1}
    right = expected(search.query(QUERY, limit=2, k=4, filter='name != "sailing_boat"', offset=1))
    assert len(right) == 2
    assert told(retriever.retrieve(QUERY, **given)) == right
    assert told(asyncio.run(retriever.aretrieve(QueryBundle(QUERY), **given))) == right
    assert told(retriever.retrieve(QUERY)) == expected(search.query(QUERY, filter='name == "apple"')), "and no longer"
    options = QueryOptions(limit=2, rerank=False)
    assert told(CoopRetriever(search, options=options).retrieve(QUERY)) == expected(search.query(QUERY, options=options))
    assert len(CoopRetriever(search, options=options, similarity_top_k=1).retrieve(QUERY, filter="")) == 1


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"filters": "year > 3"}, UnknownArgumentError, "no argument 'filters'; expected: filter"),
        ({"top_k": 3}, UnknownArgumentError, "no argument 'top_k'"),
        ({"similarity_top_k": 0}, InvalidArgumentError, "similarity_top_k is 0"),
        ({"similarity_top_k": 3, "limit": 3}, InvalidArgumentError, "similarity_top_k and limit are both given"),
        ({"filter": {"year": 3}}, InvalidArgumentError, "filter is {'year': 3}; expected: a string"),
    ],
)
def test_what_it_cannot_have_is_refused(
    search: CoopSearch, given: dict[str, Any], kind: type[InvalidArgumentError], says: str
) -> None:
    retriever = CoopRetriever(search)
    for call in (
        lambda: retriever.retrieve(QUERY, **given),
        lambda: asyncio.run(retriever.aretrieve(QUERY, **given)),
        lambda: CoopRetriever(search, **given),
    ):
        with pytest.raises(kind, match=says):
            call()


def test_nothing_of_the_connection_is_written_down(uri: str) -> None:
    with CoopSearch("images", uri=uri, token="root:geheim-123") as search:
        postprocessor = CoopPostprocessor(search=search)
        shown = [repr(postprocessor), postprocessor.to_json(), str(postprocessor.to_dict()), repr(CoopRetriever(search))]
        assert not any("geheim" in text or "search=" in text for text in shown)
