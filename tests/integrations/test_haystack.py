"""The Haystack components in pipelines of Haystack: run, saved as YAML, loaded, and behind one of its own retrievers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.errors import DeserializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

from milvus_coop import CoopSearch
from milvus_coop.errors import CollectionNotFoundError, InvalidArgumentError
from milvus_coop.serving.integrations.haystack import CoopRanker, CoopRetriever
from tests.integrations.kit import BEST, QUERY, Told, assert_alike, expected


def told(documents: Sequence[Document]) -> list[Told]:
    return [(d.id, d.score, d.meta["ce_score"]) for d in documents]


def pipeline_of(uri: str, **options: Any) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("retriever", CoopRetriever("images", uri=uri, **options))
    return pipeline


def ask(pipeline: Pipeline, **inputs: Any) -> list[Document]:
    found = pipeline.run({"retriever": {"query": QUERY, **inputs}})
    return list(found["retriever"]["documents"])


def test_the_retriever_answers_as_a_search_does(uri: str, search: CoopSearch) -> None:
    pipeline = pipeline_of(uri, top_k=5, output_fields=["name"])
    found = ask(pipeline)
    assert told(found) == expected(search.query(QUERY, limit=5))
    best = found[0]
    assert best.content is None
    assert best.meta["file_path"] == best.meta["uri"]
    assert best.meta["uri"].endswith(BEST)
    assert (best.meta["name"], best.meta["reranked"], best.meta["reason"]) == ("sailing_boat", True, None)
    assert told(ask(pipeline, top_k=2)) == told(found[:2])
    assert [d.meta["rank"] for d in ask(pipeline, filters='name == "apple"')] == [1]
    assert ask(pipeline, filters='name == "nothing"') == []
    answer = asyncio.run(pipeline.run_async({"retriever": {"query": QUERY}}))
    assert answer["retriever"]["documents"] == found
    pipeline.close()
    assert ask(pipeline) == found, "a pipeline that was closed opens the collection again"
    pipeline.close()


def test_filters_of_the_component_hold_until_a_run_has_others(search: CoopSearch) -> None:
    retriever = CoopRetriever(search=search, filters='name == "apple"')
    assert len(retriever.run(QUERY)["documents"]) == 1
    assert len(retriever.run(QUERY, filters="")["documents"]) == 10
    retriever.close()
    assert search.query(QUERY).reranked, "a search that was given stays open"


def test_texts_are_the_content(captions: CoopSearch) -> None:
    (best,) = CoopRetriever(search=captions, top_k=1).run("a dog")["documents"]
    assert "dog" in (best.content or "")
    assert "file_path" not in best.meta
    assert "both texts" in best.meta["reason"]


def test_a_degraded_search_says_so(degraded: CoopSearch) -> None:
    found = CoopRetriever(search=degraded).run(QUERY)["documents"]
    assert {d.meta["reason"] for d in found} == {"the cross-encoder failed: the server is away"}
    kept = CoopRanker(search=degraded).run(QUERY, found[::-1])["documents"]
    assert [d.id for d in kept] == [d.id for d in found[::-1]]


def hybrid(uri: str, search: CoopSearch) -> Pipeline:
    """Keyword search over the names of the pictures, then the ranker."""
    everything = CoopRetriever(search=search, top_k=44, output_fields=["name"]).run(QUERY)["documents"]
    store = InMemoryDocumentStore()
    names = [Document(id=d.id, content=f"a picture: {d.meta['name']}") for d in everything]
    store.write_documents([*names, Document(id="unknown", content="a boat on the water")])
    pipeline = Pipeline()
    pipeline.add_component("keywords", InMemoryBM25Retriever(store, top_k=50))
    pipeline.add_component("ranker", CoopRanker("images", uri=uri))
    pipeline.connect("keywords", "ranker")
    return pipeline


def test_the_ranker_mends_the_order_of_a_keyword_search(uri: str, search: CoopSearch) -> None:
    pipeline = hybrid(uri, search)
    answer = pipeline.run({"keywords": {"query": QUERY}, "ranker": {"query": QUERY}}, include_outputs_from={"keywords"})
    given, found = answer["keywords"]["documents"], answer["ranker"]["documents"]
    assert (len(given), given[0].id) == (45, "unknown")
    assert_alike(told(found[:44]), expected(search.query(QUERY, limit=44)))
    assert found[0].content == "a picture: sailing_boat"
    assert (found[44].id, found[44].score) == ("unknown", None)
    assert found[44].meta["reason"] == "the collection has no item of this id"
    assert "reason" not in given[0].meta, "documents of others are not changed"
    pipeline.close()


def test_the_ranker_alone(search: CoopSearch) -> None:
    best, second = (hit.id for hit in search.query(QUERY, limit=2))
    given = [Document(content=str(id), meta={"item": id}) for id in (7, second, best)]
    ranker = CoopRanker(search=search, id_meta_field="item")
    assert [d.content for d in ranker.run(QUERY, given)["documents"]] == [best, second, "7"]
    assert [d.content for d in ranker.run(QUERY, given, top_k=1)["documents"]] == [best]
    assert ranker.run(QUERY, [])["documents"] == []
    with pytest.raises(InvalidArgumentError, match="number of documents is 0"):
        ranker.run(QUERY, given, top_k=0)


def test_a_saved_pipeline_is_the_same_pipeline(uri: str, search: CoopSearch) -> None:
    inputs = {"keywords": {"query": QUERY}, "ranker": {"query": QUERY}}
    pipeline = hybrid(uri, search)
    pipeline.add_component("retriever", CoopRetriever("images", uri=uri, candidates=7, output_fields=["name"]))
    saved = pipeline.dumps()
    loaded = Pipeline.loads(saved, allowed_modules=["milvus_coop.*"])
    assert loaded.dumps() == saved
    inputs["retriever"] = {"query": QUERY}
    found = loaded.run(inputs)
    assert told(found["retriever"]["documents"]) == expected(search.query(QUERY, k=7))
    with pytest.raises(DeserializationError, match=r"milvus_coop\.serving\.integrations\.haystack"):
        Pipeline.loads(saved)
    for opened in (loaded, pipeline):
        opened.close()


def test_no_secret_is_saved(monkeypatch: pytest.MonkeyPatch, search: CoopSearch) -> None:
    monkeypatch.setenv("MILVUS_COOP_TOKEN", "root:geheim")
    saved = CoopRetriever("images", uri="http://localhost:19530").to_dict()
    assert "geheim" not in str(saved)
    assert CoopRetriever.from_dict(saved).to_dict() == saved
    assert saved["init_parameters"]["token"]["env_vars"] == ["MILVUS_COOP_TOKEN"]
    with pytest.raises(ValueError, match="token"):
        CoopRanker(token=Secret.from_token("geheim")).to_dict()
    with pytest.raises(InvalidArgumentError, match="password in uri"):
        CoopRetriever(uri="http://root:geheim@localhost:19530")
    with pytest.raises(InvalidArgumentError, match="triton_token"):
        CoopRanker(triton_token="geheim")
    with pytest.raises(InvalidArgumentError, match="cannot be saved"):
        CoopRetriever(search=search).to_dict()


def test_nothing_is_opened_before_it_is_warmed_up(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = CoopRetriever("nonsense", uri=uri)
    with pytest.raises(CollectionNotFoundError, match="nonsense"):
        missing.warm_up()
    monkeypatch.setenv("MILVUS_COOP_URI", uri)
    ranker = CoopRanker()
    ranker.warm_up()
    assert ranker.run(QUERY, [Document(id="unknown")])["documents"][0].meta["reranked"] is False
    ranker.close()
    with pytest.raises(TypeError, match="urn"):
        CoopRetriever("images", urn=uri)
