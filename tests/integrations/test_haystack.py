"""The Haystack components in pipelines of Haystack: run, saved as YAML, loaded, and behind one of its own retrievers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.errors import DeserializationError, PipelineRuntimeError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

from milvus_coop import CoopSearch, QueryOptions
from milvus_coop.errors import CollectionNotFoundError, InvalidArgumentError, UnknownArgumentError
from milvus_coop.serving.integrations.haystack import OTHERS, WORDS, CoopRanker, CoopRetriever
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


def test_inputs_of_a_run_hold_for_this_run(uri: str, search: CoopSearch) -> None:
    pipeline = pipeline_of(uri, top_k=3, filters='name == "apple"')
    given = {"top_k": 2, "candidates": 4, "filters": 'name != "sailing_boat"', "offset": 1, "output_fields": ["name"]}
    right = search.query(QUERY, limit=2, k=4, filter='name != "sailing_boat"', offset=1, output_fields=["name"])
    found = ask(pipeline, **given)
    assert told(found) == expected(right)
    assert len(found) == 2
    assert "name" in found[0].meta
    assert ask(pipeline, **given, rerank=False)[0].meta["reranked"] is False
    assert ask(pipeline, filters="", min_score=1.0) == []
    with pytest.raises(PipelineRuntimeError, match="the deadline came before"):
        ask(pipeline, filters="", deadline_ms=0.001)
    assert told(ask(pipeline)) == expected(search.query(QUERY, filter='name == "apple"')), "and no longer"
    with pytest.raises(ValueError, match="tenant"):
        ask(pipeline, tenant="a")
    pipeline.close()


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"filter_": "year > 3"}, UnknownArgumentError, "no argument 'filter_'; expected: filter"),
        ({"top_k": 0}, InvalidArgumentError, "top_k is 0"),
        ({"filters": {"field": "year"}}, InvalidArgumentError, "filters is {'field': 'year'}; expected: a string"),
        ({"deadline_ms": -1}, InvalidArgumentError, "deadline_ms is -1"),
    ],
)
def test_what_it_cannot_have_is_refused(
    search: CoopSearch, given: dict[str, Any], kind: type[InvalidArgumentError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        CoopRetriever(search=search).run(QUERY, **given)
    with pytest.raises(InvalidArgumentError, match=next(iter(given)) if kind is UnknownArgumentError else says):
        CoopRetriever(search=search, **given)


def test_every_option_of_a_query_is_an_input_and_is_saved(uri: str) -> None:
    inputs = set(CoopRetriever("images", uri=uri).__haystack_input__._sockets_dict)  # type: ignore[attr-defined]
    assert inputs == {"query", *WORDS, *OTHERS}
    assert {*WORDS.values(), *OTHERS} == {item.name for item in fields(QueryOptions)}
    others = {"offset": 2, "output_fields": ("name",), "rerank": False, "deadline_ms": 9.5, "score": "sum", "min_score": 0.25}
    assert set(others) == set(OTHERS)
    pipeline = pipeline_of(uri, top_k=4, candidates=7, filters="year > 3", **others)
    saved = pipeline.dumps()
    loaded = Pipeline.loads(saved, allowed_modules=["milvus_coop.*"])
    assert loaded.dumps() == saved
    before, after = (vars(p.get_component("retriever"))["_query_options"] for p in (pipeline, loaded))
    assert before == after


@pytest.mark.parametrize("kind", [CoopRetriever, CoopRanker])
@pytest.mark.parametrize(
    "secret",
    [
        {"token": "geheim-123"},
        {"token": {"type": "geheim-123"}},
        {"uri": "https://root:geheim-123@milvus"},
        {"uri": "https://geheim-123@milvus"},
        {"models": "triton://u:geheim-123@triton"},
        {"token_store": "s3://key:geheim-123@bucket/tokens"},
        {"triton_headers": "authorization=geheim-123"},
        {"triton_token": "geheim-123"},
    ],
    ids=str,
)
def test_a_secret_is_refused_before_it_is_saved(kind: type[Any], secret: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="would be saved with the component") as caught:
        kind("images", **secret)
    assert "geheim" not in str(caught.value)


def test_a_secret_of_haystack_survives_a_pipeline(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANT_TOKEN", "root:geheim-123")
    pipeline = pipeline_of(uri, token=Secret.from_env_var("TENANT_TOKEN"), token_store="abfs://container@account.net/t")
    saved = pipeline.dumps()
    assert "geheim" not in saved
    loaded = Pipeline.loads(saved, allowed_modules=["milvus_coop.*"])
    retriever = loaded.get_component("retriever")
    assert vars(retriever)["_token"].resolve_value() == "root:geheim-123"
    assert loaded.dumps() == saved
    for shown in (repr(retriever), repr(loaded), str(retriever.__dict__)):
        assert "geheim" not in shown
    with pytest.raises(ValueError, match="token"):
        pipeline_of(uri, token=Secret.from_token("root:geheim-123")).dumps()
