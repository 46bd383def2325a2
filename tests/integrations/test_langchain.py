"""The LangChain classes in LangChain: invoked, awaited, batched, and behind one of its own vector stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from milvus_coop import CoopSearch
from milvus_coop.errors import FilterError
from milvus_coop.serving.integrations.langchain import CoopDocumentCompressor, CoopRetriever
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
    late = CoopRetriever(search=search, deadline_ms=0.001).invoke(QUERY)
    assert {d.metadata["reason"] for d in late} == {f"the deadline came after 0 of {search.query(QUERY).candidates} candidates"}
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
