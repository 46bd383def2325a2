"""The LangChain classes in LangChain: invoked, awaited, batched, and behind one of its own vector stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.load import dumps
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from milvus_coop import CoopSearch, QueryOptions
from milvus_coop.errors import DeadlineExceededError, FilterError, InvalidArgumentError, UnknownArgumentError
from milvus_coop.serving.integrations.langchain import FIELDS, WORDS, CoopDocumentCompressor, CoopRetriever
from tests.integrations.kit import BEST, QUERY, Told, assert_alike, expected


def told(documents: Sequence[Document]) -> list[Told]:
    return [(d.id or "", d.metadata["score"], d.metadata["ce_score"]) for d in documents]


def test_the_retriever_answers_as_a_search_does(search: CoopSearch) -> None:
    retriever = CoopRetriever(search=search, k=5, output_fields=["name"])
    found = retriever.invoke(QUERY)
    assert told(found) == expected(search.query(QUERY, limit=5))
    best = found[0]
    assert best.page_content == best.metadata["uri"]
    assert best.page_content.endswith(BEST)
    assert (best.metadata["name"], best.metadata["rank"]) == ("sailing_boat", 1)
    assert (best.metadata["reranked"], best.metadata["reason"]) == (True, None)
    assert asyncio.run(retriever.ainvoke(QUERY)) == found
    assert retriever.batch([QUERY, QUERY]) == [found, found]


def test_its_options_reach_the_search(search: CoopSearch) -> None:
    found = CoopRetriever(search=search, k=6, candidates=2, filter='name != "sailing_boat"').invoke(QUERY)
    assert told(found) == expected(search.query(QUERY, limit=6, k=2, filter='name != "sailing_boat"'))
    assert [d.metadata["reranked"] for d in found] == [True] * 2 + [False] * 4
    assert "not among the candidates" in found[2].metadata["reason"]
    assert CoopRetriever(search=search, filter='name == "nothing"').invoke(QUERY) == []
    with pytest.raises(DeadlineExceededError):
        CoopRetriever(search=search, deadline_ms=0.001).invoke(QUERY)
    with pytest.raises(FilterError):
        CoopRetriever(search=search, filter="name >> 3").invoke(QUERY)


def test_texts_are_the_content(captions: CoopSearch) -> None:
    found = CoopRetriever(search=captions, k=3).invoke("a dog")
    assert "dog" in found[0].page_content
    assert "both texts" in found[0].metadata["reason"]


def test_a_degraded_search_says_so(degraded: CoopSearch) -> None:
    found = CoopRetriever(search=degraded).invoke(QUERY)
    assert len(found) == 10
    assert {d.metadata["reranked"] for d in found} == {False}
    assert {d.metadata["reason"] for d in found} == {"the cross-encoder failed: the server is away"}
    given = [Document("", id=d.id) for d in reversed(found)]
    assert [d.id for d in CoopDocumentCompressor(search=degraded).compress_documents(given, QUERY)] == [d.id for d in given]


def test_the_compressor_mends_the_order_of_a_vector_store(search: CoopSearch) -> None:
    retriever = CoopRetriever(search=search, k=44)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    store.add_documents([Document(d.page_content, id=d.id, metadata={"seen": True}) for d in retriever.invoke(QUERY)])
    found = store.similarity_search(QUERY, k=44)
    assert not found[0].page_content.endswith(BEST)
    compressor = CoopDocumentCompressor(search=search, top_n=5)
    mended = compressor.compress_documents(found, QUERY)
    assert_alike(told(mended), told(retriever.invoke(QUERY)[:5]))
    assert mended[0].metadata["seen"]
    assert found[0].metadata == {"seen": True}, "documents of others are not changed"
    assert asyncio.run(compressor.acompress_documents(found, QUERY)) == mended


def test_documents_without_an_item_come_last(search: CoopSearch) -> None:
    ids = [hit.id for hit in search.query(QUERY, limit=2)]
    stale = {"score": 0.9, "reranked": True}
    given = [Document("no id", metadata=stale), Document("unknown", metadata={"item": "x"})]
    given += [Document(f"chunk {i}", metadata={"item": ids[1 - i // 2]}) for i in range(4)]
    compressor = CoopDocumentCompressor(search=search, id_key="item")
    found = compressor.compress_documents(given, QUERY)
    assert [d.page_content for d in found] == ["chunk 2", "chunk 3", "chunk 0", "chunk 1", "no id", "unknown"]
    assert [d.metadata["reranked"] for d in found] == [True] * 4 + [False] * 2
    assert (found[4].metadata["score"], found[4].metadata["reason"]) == (None, "the collection has no item of this id")
    assert compressor.compress_documents([], QUERY) == []


def test_misspelt_and_impossible_options(search: CoopSearch) -> None:
    for options in ({"limit": 5}, {"k": 0}, {"output_fields": "name"}):
        with pytest.raises(ValidationError):
            CoopRetriever(search=search, **options)
    with pytest.raises(ValidationError):
        CoopDocumentCompressor(search=search, top_n=0)


GIVEN: dict[str, Any] = {"k": 2, "candidates": 4, "filter": 'name != "sailing_boat"', "output_fields": ["name"], "offset": 1}
"""Arguments of a call, and below what they are for a search."""
ASKED: dict[str, Any] = {**GIVEN, "limit": 2, "k": 4}
del ASKED["candidates"]


def test_arguments_of_a_call_hold_for_this_call(search: CoopSearch) -> None:
    retriever = CoopRetriever(search=search, k=3, filter='name == "apple"')
    right = expected(search.query(QUERY, **ASKED))
    assert len(right) == 2
    sequence = retriever | RunnableLambda(told)
    assert told(retriever.invoke(QUERY, **GIVEN)) == right
    assert told(asyncio.run(retriever.ainvoke(QUERY, **GIVEN))) == right
    assert [told(found) for found in retriever.batch([QUERY, QUERY], **GIVEN)] == [right, right]
    assert [told(found) for found in asyncio.run(retriever.abatch([QUERY], **GIVEN))] == [right]
    assert [told(found) for found in retriever.stream(QUERY, **GIVEN)] == [right]
    assert told(retriever.bind(**GIVEN).invoke(QUERY)) == right
    assert told(retriever.with_config(tags=["a"]).invoke(QUERY, **GIVEN)) == right
    assert sequence.invoke(QUERY, **GIVEN) == right
    assert asyncio.run(sequence.ainvoke(QUERY, **GIVEN)) == right
    assert (RunnableLambda(str.lower) | retriever.bind(**GIVEN) | RunnableLambda(told)).invoke(QUERY) == right
    assert told(retriever.invoke(QUERY)) == expected(search.query(QUERY, limit=3, filter='name == "apple"')), "and no longer"
    assert retriever.invoke(QUERY, filter='name == "nothing"') == []
    assert [d.metadata["reranked"] for d in retriever.invoke(QUERY, filter="", rerank=False)] == [False] * 3
    assert retriever.invoke(QUERY, filter="", min_score=1.0) == []
    with pytest.raises(DeadlineExceededError):
        retriever.invoke(QUERY, filter="", deadline_ms=0.001)
    assert len(retriever.invoke(QUERY, filter="", limit=1, verbose=True)) == 1


def test_configurable_fields(search: CoopSearch) -> None:
    fields = {name: ConfigurableField(id=name) for name in ("k", "filter")}
    retriever = CoopRetriever(search=search, k=3).configurable_fields(**fields)
    assert [d.metadata["rank"] for d in retriever.invoke(QUERY)] == [1, 2, 3]
    set_here: RunnableConfig = {"configurable": {"k": 1, "filter": 'name == "apple"'}}
    right = expected(search.query(QUERY, limit=1, filter='name == "apple"'))
    assert told(retriever.invoke(QUERY, set_here)) == right
    assert told(retriever.with_config(set_here).invoke(QUERY)) == right
    assert (retriever | RunnableLambda(told)).invoke(QUERY, set_here) == right


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"filters": "year > 3"}, UnknownArgumentError, "no argument 'filters'; expected: filter"),
        ({"top_k": 3}, UnknownArgumentError, "no argument 'top_k'"),
        ({"search_kwargs": {"k": 3}}, UnknownArgumentError, "no argument 'search_kwargs'"),
        ({"tenant": "a"}, UnknownArgumentError, "expected: k, candidates, limit, offset, filter"),
        ({"k": 0}, InvalidArgumentError, "k is 0"),
        ({"k": 3, "limit": 3}, InvalidArgumentError, "k and limit are both given"),
        ({"filter": {"year": 3}}, InvalidArgumentError, "filter is {'year': 3}; expected: a string"),
        ({"filter": None}, InvalidArgumentError, "filter is None"),
        ({"deadline_ms": -1}, InvalidArgumentError, "deadline_ms is -1"),
    ],
)
def test_what_a_call_cannot_have_is_refused(
    search: CoopSearch, given: dict[str, Any], kind: type[InvalidArgumentError], says: str
) -> None:
    retriever = CoopRetriever(search=search)
    for call in (
        lambda: retriever.invoke(QUERY, **given),
        lambda: asyncio.run(retriever.ainvoke(QUERY, **given)),
        lambda: retriever.batch([QUERY], **given),
        lambda: (retriever | RunnableLambda(told)).invoke(QUERY, **given),
    ):
        with pytest.raises(kind, match=says):
            call()


def test_its_fields_are_those_of_a_query() -> None:
    own = set(CoopRetriever.model_fields) - set(BaseRetriever.model_fields)
    assert own == {"search", *FIELDS}
    field_of = {name: WORDS.get(name, name) for name in FIELDS}
    assert set(field_of.values()) == {item.name for item in fields(QueryOptions)}
    defaults = {field: CoopRetriever.model_fields[name].default for name, field in field_of.items()}
    assert QueryOptions(**defaults) == QueryOptions()


def test_nothing_of_the_connection_is_written_down(uri: str) -> None:
    with CoopSearch("images", uri=uri, token="root:geheim-123") as search:
        for made in (CoopRetriever(search=search), CoopDocumentCompressor(search=search)):
            shown = [repr(made), str(made), dumps(made), made.model_dump_json(), str(made.model_dump())]
            assert not any("geheim" in text or "search=" in text for text in shown)
