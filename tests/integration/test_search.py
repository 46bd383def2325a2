"""`CoopSearch` on a real Milvus Lite: the flow with the fake backend, whose failures and delays can be chosen."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, Fields, QueryOptions, SearchResult, Store, load_bundle
from milvus_coop.bundle import CROSS_ENCODER, TEXT_ENCODER
from milvus_coop.errors import (
    BackendError,
    BackendUnavailableError,
    BundleMismatchError,
    CollectionNotFoundError,
    DeadlineExceededError,
    FilterError,
    ForeignCollectionError,
    ImageUnreadableError,
    InvalidArgumentError,
    MilvusCoopError,
)
from milvus_coop.models.tokens import pack
from milvus_coop.search.options import QueryArguments
from milvus_coop.types import Row, StoredTokens

N_IMAGES = 60
CAPTIONS = ["a red apple", "two dogs on a beach", "猫", "🚲 in the rain", "a boat on the water"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures with metadata and a collection of five captions, ingested through the fake backend."""
    folder = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(N_IMAGES):
        colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((64, 48), Image.Resampling.NEAREST).save(folder / f"{i:02}.png")
        lines.append(f'{{"path": "{i:02}.png", "year": {1990 + i}, "author": "A. N. Öther"}}\n')
    (folder / "list.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "captions.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    backend = FakeBackend(load_bundle("coop-small").spec)
    with CoopIngest("images", uri=folder / "lite.db", models=backend) as ingest:
        assert ingest.run([folder / "list.jsonl"]).added == N_IMAGES
    with CoopIngest("captions", kind="text", uri=folder / "lite.db", models=backend) as ingest:
        assert ingest.run([folder / "captions.txt"]).added == len(CAPTIONS)
    return folder


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(load_bundle("coop-small").spec)


@pytest.fixture
def search(folder: Path, backend: FakeBackend) -> Iterator[CoopSearch]:
    with CoopSearch("images", uri=folder / "lite.db", models=backend) as opened:
        yield opened


@pytest.fixture
def captions(folder: Path, backend: FakeBackend) -> Iterator[CoopSearch]:
    with CoopSearch("captions", uri=folder / "lite.db", models=backend) as opened:
        yield opened


def be_ranks(result: SearchResult) -> list[int]:
    return [hit.be_rank for hit in result]


def is_falling(values: Sequence[float | None]) -> bool:
    return all(a is not None and b is not None and a >= b for a, b in itertools.pairwise(values))


def test_coop_order(search: CoopSearch) -> None:
    result = search.query("a red apple", limit=5, k=20)
    assert result.reranked
    assert result.reason is None
    assert (result.candidates, result.reranked_count, len(result)) == (20, 20, 5)
    assert is_falling([hit.ce_score for hit in result])
    assert all(hit.score == hit.ce_score for hit in result)
    plain = search.query("a red apple", limit=20, rerank=False)
    by_uri = {hit.uri: hit for hit in plain}
    assert [by_uri[hit.uri].rank for hit in result] == be_ranks(result)
    assert [by_uri[hit.uri].be_score for hit in result] == [hit.be_score for hit in result]
    t = result.timings
    assert t.total_ms == pytest.approx(t.encode_ms + t.retrieve_ms + t.rerank_ms)


def test_be_order(search: CoopSearch, backend: FakeBackend) -> None:
    result = search.query("a red apple", limit=7, rerank=False)
    assert be_ranks(result) == list(range(1, 8))
    assert is_falling([hit.be_score for hit in result])
    assert (result.reranked, result.reranked_count, result.reason) == (False, 0, "reranking was turned off")
    assert {hit.ce_score for hit in result} == {None}
    assert CROSS_ENCODER not in backend.rows


def test_tokens_are_asked_for_only_to_rerank(search: CoopSearch, captions: CoopSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def watch(of: CoopSearch) -> None:
        connection = of.collection._connection
        call = connection.call

        def watched(name: str, **arguments: Any) -> Any:
            if name == "search":
                asked.append(arguments["output_fields"])
            return call(name, **arguments)

        monkeypatch.setattr(connection, "call", watched)

    watch(search)
    watch(captions)
    search.query("a red apple", output_fields=["year"])
    search.query("a red apple", output_fields=["year"], rerank=False)
    assert not search.query(image=Image.new("RGB", (64, 48))).reranked  # the cross-encoder does not compare two images
    assert asked == [["uri", "image_tokens", "year"], ["uri", "year"], ["uri"]]
    assert {hit.text for hit in captions.query(image=Image.new("RGB", (64, 48)), rerank=False)} <= set(CAPTIONS)


def test_pages_and_filters_do_not_encode_the_text_again(search: CoopSearch, backend: FakeBackend) -> None:
    first = search.query("a red apple", limit=5)
    search.query("a red apple", limit=5, offset=5)
    search.query("a red apple", filter="year > 2000")
    search.query_many(["a red apple", "a boat", "a boat"])
    assert backend.rows[TEXT_ENCODER] == 2
    assert search.query("a red apple", limit=5).hits == first.hits


def test_no_picture_is_opened(search: CoopSearch, folder: Path) -> None:
    before = search.query("a red apple")
    for path in folder.glob("*.png"):
        path.rename(path.with_suffix(".away"))
    try:
        assert search.query("a red apple").hits == before.hits
    finally:
        for path in folder.glob("*.away"):
            path.rename(path.with_suffix(".png"))


def test_hits_beyond_k_follow_in_be_order(search: CoopSearch) -> None:
    result = search.query("a red apple", limit=30, k=10)
    assert (result.candidates, result.reranked_count, len(result)) == (30, 10, 30)
    assert result.reranked
    assert set(be_ranks(result)[:10]) == set(range(1, 11))
    assert be_ranks(result)[10:] == list(range(11, 31))
    assert result[10].score == result[10].be_score


def test_more_asked_for_than_there_is(search: CoopSearch) -> None:
    result = search.query("a red apple", limit=1000)
    assert (len(result), result.candidates, result.reranked_count, result.reranked) == (N_IMAGES, N_IMAGES, N_IMAGES, True)


def test_filter_and_output_fields(search: CoopSearch) -> None:
    result = search.query("a red apple", filter="year > 2040", output_fields=["year", "author"])
    assert len(result) == 9
    assert all(hit.fields["year"] > 2040 and hit.fields["author"] == "A. N. Öther" for hit in result)
    with pytest.raises(FilterError, match="year >>"):
        search.query("a red apple", filter="year >> 3")
    none = search.query("a red apple", filter="year > 9999")
    assert (len(none), none.reranked, none.reason) == (0, False, "there are no candidates")


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": -1}, {"limit": 16385}, {"k": 0}, {"k": 2.5}, {"limit": True}, {"deadline_ms": 0}]
)
def test_options_out_of_range(search: CoopSearch, options: dict[str, int]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{next(iter(options))} is"):
        search.query("a red apple", **options)  # type: ignore[arg-type]


def test_queries_that_are_none(search: CoopSearch) -> None:
    for text in ("", "  ", "x" * 20_001):
        with pytest.raises(InvalidArgumentError, match="the text"):
            search.query(text)
    with pytest.raises(InvalidArgumentError, match="neither a text nor an image"):
        search.query()
    with pytest.raises(InvalidArgumentError, match="a text and an image"):
        search.query("x", image=b"")
    with pytest.raises(InvalidArgumentError, match="texts is 'a red apple'; expected: a list of texts"):
        search.query_many("a red apple")
    with pytest.raises(InvalidArgumentError, match="output_fields"):
        search.query("a red apple", output_fields="year")
    with pytest.raises(ImageUnreadableError):
        search.query(image=b"no picture")
    with pytest.raises(ImageUnreadableError):
        search.query(image="missing.jpg")


@pytest.mark.parametrize("text", ["x" * 20_000, "🚲🚲", "一只猫", "a\x00b", "' or 1 == 1"])
def test_odd_but_valid_queries(search: CoopSearch, text: str) -> None:
    assert len(search.query(text)) == 10


def test_same_query_same_answer(search: CoopSearch) -> None:
    first = search.query("two dogs on a beach")
    assert all(search.query("two dogs on a beach").hits == first.hits for _ in range(3))


def test_query_many_is_query_for_each(folder: Path, search: CoopSearch, backend: FakeBackend) -> None:
    singles = [search.query(text, k=20) for text in CAPTIONS]
    backend.rows.clear()
    with CoopSearch("images", uri=folder / "lite.db", models=backend) as other:  # which remembers none of these texts
        together = other.query_many(CAPTIONS, k=20)
    assert [r.hits for r in together] == [r.hits for r in singles]
    assert all(r.reranked for r in together)
    assert backend.rows == {TEXT_ENCODER: 5, CROSS_ENCODER: 100}
    assert search.query_many([]) == []


def test_many_queries_are_searched_in_groups(folder: Path, captions: CoopSearch, backend: FakeBackend) -> None:
    texts = [f"{caption}, number {number}" for number in range(20) for caption in CAPTIONS]
    with CoopSearch("images", uri=folder / "lite.db", models=backend, remembered_texts=0) as search:
        together = search.query_many(texts, k=5)
        assert backend.rows == {TEXT_ENCODER: 100, CROSS_ENCODER: 500}
        assert [result.hits for result in together] == [search.query(text, k=5).hits for text in texts]
        at_once = search.query_many(texts, k=5, deadline_ms=60_000)  # a single group
    assert [result.hits for result in at_once] == [result.hits for result in together]
    (timings,) = {result.timings for result in together}
    assert timings.total_ms > 0
    assert max(timings.encode_ms, timings.retrieve_ms, timings.rerank_ms) < 2 * timings.total_ms
    pictures = [folder / f"{number % N_IMAGES:02}.png" for number in range(70)]
    by_image = captions.query_many(images=pictures, k=3)
    assert [result.hits for result in by_image] == [captions.query(image=picture, k=3).hits for picture in pictures]


def test_the_first_error_among_many_queries_is_raised(search: CoopSearch, captions: CoopSearch, folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="the text is empty"):
        search.query_many([*CAPTIONS * 14, " ", *CAPTIONS])
    with pytest.raises(ImageUnreadableError, match=r"no\.png"):
        captions.query_many(images=[*[folder / "03.png"] * 70, folder / "no.png"])
    with pytest.raises(FilterError):
        search.query_many(CAPTIONS * 14, filter="year >")
    assert len(search.query_many(CAPTIONS * 14)) == 70


def test_threads_share_a_search(search: CoopSearch) -> None:
    expected = [search.query(text).hits for text in CAPTIONS]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: search.query(CAPTIONS[i % 5]).hits, range(40)))
    assert results == [expected[i % 5] for i in range(40)]


def test_image_to_text(captions: CoopSearch, folder: Path) -> None:
    result = captions.query(image=folder / "03.png", limit=3)
    assert result.reranked
    assert is_falling([hit.ce_score for hit in result])
    assert {hit.text for hit in captions.query(image=folder / "03.png")} == set(CAPTIONS)
    as_bytes = captions.query(image=(folder / "03.png").read_bytes(), limit=3)
    as_picture = captions.query(image=Image.open(folder / "03.png"), limit=3)
    assert result.hits == as_bytes.hits == as_picture.hits
    many = captions.query_many(images=[folder / "03.png", folder / "04.png"], limit=3)
    assert many[0].hits == result.hits
    assert many[1].hits != result.hits


def test_a_query_sees_a_picture_as_ingest_does(tmp_path: Path, backend: FakeBackend) -> None:
    """A large photograph, which is decoded smaller; one that is turned; one with transparency; as files and opened by Pillow."""
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((1600, 1200))
    noise.save(tmp_path / "large.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise.resize((400, 300)).save(tmp_path / "turned.jpg", exif=turned)
    clear = noise.resize((300, 300))
    clear.putalpha(Image.linear_gradient("L").resize((300, 300)))
    clear.save(tmp_path / "clear.png")
    names = ("large.jpg", "turned.jpg", "clear.png")
    with CoopIngest("images", uri=tmp_path / "lite.db", models=backend) as ingest:
        assert ingest.run([tmp_path / name for name in names]).added == 3
    with CoopSearch("images", uri=tmp_path / "lite.db", models=backend) as search:
        for name in names:
            (best,) = search.query(image=tmp_path / name, limit=1)
            assert best.uri.endswith(name)
            assert best.be_score == pytest.approx(1.0, abs=1e-5)
        for name in names[1:]:
            with Image.open(tmp_path / name) as picture:
                (best,) = search.query(image=picture, limit=1)
            assert best.uri.endswith(name)
            assert best.be_score == pytest.approx(1.0, abs=1e-5)


def test_rerank_what_another_retriever_found(search: CoopSearch, backend: FakeBackend) -> None:
    found = search.query("a red apple", limit=20)
    given = [hit.id for hit in found][::-1]
    backend.rows.clear()
    result = search.rerank("a red apple", ids=given)
    assert backend.rows == {CROSS_ENCODER: 20}  # the text is known from the query
    assert (result.reranked, result.reason, result.reranked_count, result.candidates) == (True, None, 20, 20)
    for hit, same in zip(result, found, strict=True):
        assert hit.be_score == pytest.approx(same.be_score, abs=1e-5)
        assert hit.be_rank == given.index(hit.id) + 1
        assert dataclasses.replace(hit, be_score=same.be_score, be_rank=same.be_rank) == same
    assert search.rerank("a red apple", ids=given, limit=3).hits == result.hits[:3]
    sums = search.rerank("a red apple", ids=given, score="sum")
    assert sums.hits != result.hits
    assert is_falling([hit.score for hit in sums])


def test_rerank_texts_by_a_picture(captions: CoopSearch, folder: Path) -> None:
    found = captions.query(image=folder / "03.png")
    result = captions.rerank(image=folder / "03.png", ids=[hit.id for hit in found][::-1])
    assert result.reranked
    assert [(hit.text, hit.ce_score) for hit in result] == [(hit.text, hit.ce_score) for hit in found]


def test_rerank_ids_that_are_not_there(search: CoopSearch) -> None:
    given = [hit.id for hit in search.query("a red apple", limit=5)]
    result = search.rerank("a red apple", ids=["unknown", *given, given[0], "\n"])
    assert {hit.id for hit in result} == set(given)
    assert {hit.id: hit.be_rank for hit in result} == {id: i for i, id in enumerate(given, start=1)}
    assert (len(result), result.reranked_count, result.candidates, result.reranked) == (5, 5, 5, False)
    assert result.reason == "2 of 7 ids are not in the collection"
    none = search.rerank("a red apple", ids=["unknown"])
    assert (none.hits, none.reranked, none.reason) == ((), False, "1 of 1 ids are not in the collection")
    empty = search.rerank("a red apple", ids=[])
    assert (empty.hits, empty.reranked, empty.reason) == ((), False, "there are no candidates")


def test_rerank_keeps_the_given_order_where_it_cannot_rerank(search: CoopSearch, backend: FakeBackend) -> None:
    given = sorted(hit.id for hit in search.query("a red apple", limit=40))
    backend.delays_s[CROSS_ENCODER] = 0.1
    late = search.rerank("a red apple", ids=given, deadline_ms=180)
    assert "the deadline came after" in (late.reason or "")
    assert [hit.id for hit in late][late.reranked_count :] == given[late.reranked_count :]
    backend.failures[CROSS_ENCODER] = BackendUnavailableError("the server is away")
    result = search.rerank("a red apple", ids=["unknown", *given])
    assert [hit.id for hit in result] == given
    assert all(hit.score == hit.be_score for hit in result)
    assert result.reason == "1 of 41 ids are not in the collection; the cross-encoder failed: the server is away"


def test_rerank_arguments_out_of_range(search: CoopSearch) -> None:
    with pytest.raises(InvalidArgumentError, match="ids is 'abc'; expected: a list of ids"):
        search.rerank("a red apple", ids="abc")
    with pytest.raises(InvalidArgumentError, match="an element of ids is 1; expected: a string"):
        search.rerank("a red apple", ids=[1])  # type: ignore[list-item]
    with pytest.raises(InvalidArgumentError, match="16,385 ids"):
        search.rerank("a red apple", ids=[str(i) for i in range(16_385)])
    with pytest.raises(InvalidArgumentError, match="limit is 0"):
        search.rerank("a red apple", ids=["a"], limit=0)
    with pytest.raises(InvalidArgumentError, match="neither a text nor an image"):
        search.rerank(ids=["a"])


def test_both_directions_agree_on_a_pair(search: CoopSearch, captions: CoopSearch, folder: Path) -> None:
    uri = str(folder / "03.png")
    forward = next(hit for hit in search.query("a red apple", limit=60, k=60) if hit.uri == uri)
    back = next(hit for hit in captions.query(image=uri) if hit.text == "a red apple")
    assert forward.be_score == pytest.approx(back.be_score, abs=1e-5)
    assert forward.ce_score == pytest.approx(back.ce_score, abs=0.003)  # the states of texts are stored as int8


def test_same_kind_is_be_only_and_says_so(search: CoopSearch, captions: CoopSearch, folder: Path) -> None:
    result = search.query(image=folder / "03.png")
    assert result[0].uri == str(folder / "03.png")
    assert result[0].be_score == pytest.approx(1, abs=1e-5)
    assert not result.reranked
    assert "both images" in (result.reason or "")
    assert "both texts" in (captions.query("a red apple").reason or "")


def test_a_failing_cross_encoder_degrades(search: CoopSearch, backend: FakeBackend) -> None:
    good = search.query("a red apple", limit=20)
    backend.failures[CROSS_ENCODER] = BackendUnavailableError("the server is away")
    result = search.query("a red apple", limit=20)
    assert be_ranks(result) == list(range(1, 21))
    assert (result.reranked, result.reranked_count) == (False, 0)
    assert result.reason == "the cross-encoder failed: the server is away"
    backend.failures.clear()
    assert search.query("a red apple", limit=20).hits == good.hits


def test_a_broken_cross_encoder_and_a_failing_encoder_are_errors(search: CoopSearch, backend: FakeBackend) -> None:
    backend.failures[CROSS_ENCODER] = BackendError("nonsense in the graph")
    with pytest.raises(BackendError, match="nonsense"):
        search.query("a red apple")
    backend.failures = {TEXT_ENCODER: BackendUnavailableError("the server is away")}
    assert search.query("a red apple").reranked  # a text that is known needs no encoder
    with pytest.raises(BackendUnavailableError):
        search.query("a green apple")


def test_a_deadline_cuts_the_reranking(search: CoopSearch, backend: FakeBackend) -> None:
    """There is time for two of the four runs that all candidates take, and on a busy machine perhaps for one."""
    backend.delays_s[CROSS_ENCODER] = 1.0
    result = search.query("a red apple", limit=60, k=60, deadline_ms=3000)
    assert backend.rows[CROSS_ENCODER] == result.reranked_count  # no run was begun whose end the deadline forbids
    assert not result.reranked
    assert 0 < result.reranked_count <= 32
    assert result.reranked_count % 16 == 0
    assert "the deadline came after" in (result.reason or "")
    assert is_falling([hit.ce_score for hit in result[: result.reranked_count]])
    assert be_ranks(result)[result.reranked_count :] == list(range(result.reranked_count + 1, 61))
    backend.delays_s.clear()
    assert search.query("a red apple", limit=60, deadline_ms=60_000).reranked


def test_a_deadline_that_has_passed(search: CoopSearch, backend: FakeBackend) -> None:
    with pytest.raises(DeadlineExceededError, match="the deadline came before the query was encoded"):
        search.query("a red apple", deadline_ms=0.001)
    assert backend.rows == {}


@pytest.mark.parametrize("changes", [{}, {"rerank": False}, {"k": 12}, {"score": "sum"}, {"min_score": 0.3}])
def test_pages_continue_each_other(search: CoopSearch, changes: dict[str, Any]) -> None:
    whole = search.query("a red apple", **{**changes, "limit": 60, "k": changes.get("k", 50)})
    pages = [search.query("a red apple", offset=offset, limit=7, **changes) for offset in range(0, 63, 7)]
    assert tuple(hit for page in pages for hit in page) == whole.hits
    if "min_score" not in changes:
        assert [hit.rank for hit in whole] == list(range(1, 61))
        assert [hit.rank for hit in pages[2]] == list(range(15, 22))


def test_a_page_beyond_the_last_hit(search: CoopSearch) -> None:
    result = search.query("a red apple", offset=1000)
    assert (result.hits, result.reranked) == ((), True)


def test_min_score_is_a_match_probability(search: CoopSearch) -> None:
    whole = search.query("a red apple", limit=60, k=20)
    least = whole[9].ce_score
    assert least is not None
    result = search.query("a red apple", limit=60, k=20, min_score=least)
    assert result.hits == whole.hits[:10]  # and none of the 40 that have no match probability
    assert (result.reranked, result.reason) == (True, None)
    assert search.query("a red apple", min_score=1.0).hits == ()
    summed = search.query("a red apple", limit=60, k=20, min_score=least, score="sum")
    assert {hit.id for hit in summed} == {hit.id for hit in result}
    mixed = search.rerank("a red apple", ids=[hit.id for hit in whole[:20]][::-1], min_score=least)
    assert [hit.id for hit in mixed] == [hit.id for hit in result]


def test_min_score_is_a_cosine_where_reranking_is_turned_off(search: CoopSearch) -> None:
    whole = search.query("a red apple", limit=60, rerank=False)
    least = whole[9].be_score
    assert search.query("a red apple", limit=60, rerank=False, min_score=least).hits == whole.hits[:10]


def test_min_score_never_becomes_a_cosine_by_itself(
    search: CoopSearch, captions: CoopSearch, backend: FakeBackend, folder: Path
) -> None:
    """Degraded answers hold no hit that was not compared with the threshold, and say so."""
    backend.failures[CROSS_ENCODER] = BackendUnavailableError("the server is away")
    result = search.query("a red apple", min_score=0.0)
    assert (result.hits, result.reranked, result.candidates) == ((), False, 50)
    assert result.reason == (
        "the cross-encoder failed: the server is away; min_score leaves out 50 candidates that have no match probability"
    )
    backend.failures.clear()
    result = search.query(image=folder / "03.png", min_score=0.0)
    assert result.hits == ()
    assert "both images" in (result.reason or "")
    assert "min_score leaves out 50 candidates" in (result.reason or "")
    backend.delays_s[CROSS_ENCODER] = 60.0
    late = search.query("a red apple", deadline_ms=2000, min_score=0.0)
    assert late.hits == ()
    assert "the deadline came after 0 of 50 candidates; min_score leaves out 50" in (late.reason or "")


def test_one_record_serves_every_call(search: CoopSearch) -> None:
    options = QueryOptions(limit=4, offset=2, filter="year > 2000", output_fields=["year"])
    expected = search.query("a red apple", limit=4, offset=2, filter="year > 2000", output_fields=["year"])
    assert search.query("a red apple", options=options).hits == expected.hits
    assert search.query_many(["a red apple"], options=options)[0].hits == expected.hits
    assert search.query("a red apple", options=options, limit=2).hits == expected.hits[:2]
    ids = [hit.id for hit in expected]
    assert len(search.rerank("a red apple", ids=ids, options=QueryOptions(limit=3))) == 3
    whole = search.rerank("a red apple", ids=ids)
    assert search.rerank("a red apple", ids=ids, offset=1).hits == whole.hits[1:]
    for name, value in (("k", 5), ("filter", "year > 1"), ("output_fields", ["year"]), ("rerank", False)):
        with pytest.raises(InvalidArgumentError, match=f"^{name} is .*expected: no {name}, which rerank does not use"):
            search.rerank("a red apple", ids=ids, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="there is no argument 'limits'; expected: limit"):
        search.query("a red apple", limits=3)  # type: ignore[call-arg]


def test_many_may_be_any_iterable(search: CoopSearch, folder: Path) -> None:
    texts = ["a red apple", "two dogs"]
    expected = search.query_many(texts)
    for given_ in (iter(texts), dict.fromkeys(texts).keys(), np.array(texts), (text for text in texts)):
        assert [result.hits for result in search.query_many(given_)] == [result.hits for result in expected]
    assert len(search.query_many(images=(folder / f"0{i}.png" for i in range(3)))) == 3
    assert search.query_many(iter([])) == []
    ids = [hit.id for hit in expected[0]]
    assert search.rerank("a red apple", ids=iter(ids)).hits == search.rerank("a red apple", ids=ids).hits
    assert search.uris(iter(ids)) == search.uris(ids) == {hit.id: hit.uri for hit in expected[0]}
    assert len(search.encoder.encode_texts(iter(texts)).embeddings) == 2
    assert set(search.query("a red apple", output_fields=iter(["year"]))[0].fields) == {"year"}


def test_a_single_value_is_not_many(search: CoopSearch, folder: Path) -> None:
    png = folder / "03.png"
    calls: tuple[tuple[str, Callable[[], object]], ...] = (
        ("texts is 'a dog'; expected: a list of texts", lambda: search.query_many("a dog")),
        ("images is PosixPath", lambda: search.query_many(images=png)),  # type: ignore[arg-type]
        ("images is '.*png'", lambda: search.query_many(images=str(png))),
        ("images is [0-9,]+ bytes", lambda: search.query_many(images=png.read_bytes())),  # type: ignore[arg-type]
        ("images is <PIL.Image", lambda: search.query_many(images=Image.new("RGB", (9, 9)))),  # type: ignore[arg-type]
        ("ids is 'abc'; expected: a list of ids", lambda: search.uris("abc")),
        ("texts is 'a dog'", lambda: search.encoder.encode_texts("a dog")),
        ("texts is None", lambda: search.encoder.encode_texts(None)),  # type: ignore[arg-type]
    )
    for message, call in calls:
        with pytest.raises(InvalidArgumentError, match=f"^{message}"):
            call()


@pytest.mark.parametrize("text", ["caf\udce9", "smile \ud83d"])
def test_a_text_that_is_not_unicode(search: CoopSearch, text: str) -> None:
    for call in (
        lambda: search.query(text),
        lambda: search.query_many(["a dog", text]),
        lambda: search.rerank(text, ids=[]),
        lambda: search.ranker(text, endpoint="http://gateway:8080"),
        lambda: search.encoder.encode_texts([text]),
        lambda: search.query("a dog", filter=f"author == '{text}'"),
        lambda: search.query("a dog", output_fields=[text]),
        lambda: search.rerank("a dog", ids=[text]),
    ):
        with pytest.raises(InvalidArgumentError, match=r"is not valid Unicode: .*; expected: text that UTF-8 can write") as caught:
            call()
        assert str(caught.value).encode()


def test_images_that_cannot_be(captions: CoopSearch, folder: Path) -> None:
    data = (folder / "03.png").read_bytes()
    expected = captions.query(image=folder / "03.png").hits
    for same in (
        bytearray(data),
        memoryview(data),
        str(folder / "03.png"),
        (folder / "03.png").as_uri(),
        Image.open(io.BytesIO(data)),
    ):
        assert captions.query(image=same).hits == expected
    wrong: tuple[tuple[Any, type[MilvusCoopError], str], ...] = (
        ("https://example.com/x.jpg", ImageUnreadableError, "https://example.com/x.jpg is a URL, and URLs are not fetched"),
        (Path("https://example.com/x.jpg"), ImageUnreadableError, "https://example.com/x.jpg is a URL, and URLs are not fetched"),
        ("data:image/png;base64,AAAA", ImageUnreadableError, "URLs are not fetched"),
        ("s3://bucket/x.jpg", ImageUnreadableError, "URLs are not fetched"),
        (5, InvalidArgumentError, "the image is of type int; expected: a path"),
        ([data], InvalidArgumentError, "the image is of type list"),
        ("x" * 100_000, ImageUnreadableError, "cannot be read: File name too long"),
        ("a\0b", ImageUnreadableError, "cannot be read: embedded null byte"),
        ("", ImageUnreadableError, "the image is an empty path"),
        (bytearray(200_000), ImageUnreadableError, "not an image"),
        (Image.new("RGB", (0, 0)), ImageUnreadableError, "no pixels"),
        (Image.open(io.BytesIO(data[: len(data) // 2])), ImageUnreadableError, "truncated"),
    )
    for image, error, message in wrong:
        for call in (captions.query, functools.partial(captions.ranker, endpoint="http://gateway:8080")):
            with pytest.raises(error, match=message) as caught:
                call(image=image)
            assert len(str(caught.value)) < 400


def test_arguments_of_constructors_that_cannot_be(folder: Path, backend: FakeBackend) -> None:
    wrong: tuple[tuple[type[CoopSearch] | type[CoopIngest], dict[str, Any], str], ...] = (
        (CoopIngest, {"kind": "video"}, "kind is 'video'; expected: image or text"),
        (CoopIngest, {"options": {"index": "FLAT"}}, "options is {'index': 'FLAT'}; expected: a CollectionOptions object"),
        (CoopIngest, {"index": "HNSW"}, "there is no argument 'index'"),
        (CoopSearch, {"fields": {"uri": "link"}}, "fields is {'uri': 'link'}; expected: a Fields object"),
        (CoopSearch, {"models": 5}, "models is 5; expected: onnx"),
        (CoopSearch, {"settings": {"uri": "x"}}, "settings is {'uri': 'x'}; expected: a Settings object"),
        (CoopSearch, {"timeout": 3}, "there is no argument 'timeout'; expected: timeout_s"),
        (CoopSearch, {"uri": "x" * 100_000}, "the Milvus address is 'x.*which cannot name a file"),
        (CoopIngest, {"uri": "\ud83d.db"}, "which cannot name a file"),
        (CoopSearch, {"bundle": "x" * 300}, "the bundle is 'x.*which cannot name a file"),
        (CoopSearch, {"collection": "x" * 100_000}, "cannot name a collection"),
    )
    for make, arguments, message in wrong:
        with pytest.raises(InvalidArgumentError, match=message) as caught:
            make(**{"collection": "images", "uri": folder / "lite.db", "models": backend, **arguments})
        assert len(str(caught.value)) < 400


STRANGE: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20_000),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=40),
    st.lists(st.one_of(st.none(), st.text(max_size=5), st.integers()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(
        ["\ud83d", "caf\udce9", "a\0", np.int64(3), np.bool_(True), object(), 10**5000, Path("x"), "x" * 30_000, QueryOptions()]
    ),
)
PLACES: tuple[tuple[str, str], ...] = (
    *(("query", name) for name in (*QueryArguments.__annotations__, "text", "image", "options", "unknown")),
    *(("query_many", name) for name in (*QueryArguments.__annotations__, "texts", "images", "options")),
    *(("rerank", name) for name in (*QueryArguments.__annotations__, "text", "image", "ids", "options")),
    *(("ranker", name) for name in ("text", "image", "endpoint", "api_key", "credential", "provider", "batch_size", "score")),
    ("uris", "ids"),
)
USUAL: dict[str, dict[str, Any]] = {
    "query": {"text": "a dog"},
    "query_many": {"texts": ["a dog"]},
    "rerank": {"text": "a dog", "ids": ["a"]},
    "ranker": {"text": "a dog", "endpoint": "http://gateway:8080"},
    "uris": {},
}


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=STRANGE)
def test_any_argument_gives_a_result_or_an_own_short_error(search: CoopSearch, place: tuple[str, str], value: Any) -> None:
    method, name = place
    arguments = {**USUAL[method], name: value}
    if name in ("image", "images"):
        arguments.pop("text", arguments.pop("texts", None))
    try:
        getattr(search, method)(**arguments)
    except MilvusCoopError as exc:
        message = str(exc)
    else:
        return
    assert len(message.encode()) < 1000


def test_damaged_tokens_are_named_and_stay_in_the_list(folder: Path, backend: FakeBackend, search: CoopSearch) -> None:
    embedding = search.encoder.encode_texts(["a red apple"]).embeddings[0]
    with Store(folder / "lite.db") as store:
        collection = store.open("images", backend.spec)
        collection.upsert([Row("damaged", "damaged.png", "", 0, 0, embedding, StoredTokens("AAAA"))])
        try:
            result = search.query("a red apple", limit=60, k=20)
        finally:
            collection.delete(["damaged"])
    assert result.reranked_count == 19
    assert result.reason == "1 of 20 candidates hold nothing that the cross-encoder can read"
    assert [hit.id for hit in result].index("damaged") == 19


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_tokens_with_scores_that_are_no_numbers_are_named(tmp_path: Path, backend: FakeBackend, scale: float) -> None:
    count, dim = backend.spec.tokens.count, backend.spec.tokens.dim
    scales = np.full((2, count), 0.01, np.float16)
    scales[1] = scale
    sound, damaged = map(StoredTokens, pack(np.ones((2, count, dim), np.int8), scales))
    embeddings = np.eye(2, backend.spec.dim, dtype=np.float32)
    with Store(tmp_path / "lite.db") as store:
        collection = store.create("images", backend.spec)
        collection.upsert(
            [Row(id, id, "", 0, 0, row, content) for id, row, content in zip("ab", embeddings, (sound, damaged), strict=True)]
        )
        with CoopSearch("images", uri=tmp_path / "lite.db", threads=1) as search:
            result = search.query("a red apple")
    assert [(hit.id, hit.ce_score is None) for hit in result] == [("a", False), ("b", True)]
    assert result.reason == "1 of 2 candidates hold nothing that the cross-encoder can read"


def test_an_empty_collection(tmp_path: Path, backend: FakeBackend) -> None:
    with Store(tmp_path / "empty.db") as store:
        store.create("images", backend.spec)
        with CoopSearch("images", uri=tmp_path / "empty.db", models=backend) as search:
            assert search.query("a red apple").hits == ()
            assert search.info().count == 0


def test_collections_that_do_not_fit(folder: Path, backend: FakeBackend) -> None:
    with pytest.raises(CollectionNotFoundError, match="nonsense"):
        CoopSearch("nonsense", uri=folder / "lite.db", models=backend)
    with Store(folder / "lite.db") as store:
        store.create("other", dataclasses.replace(backend.spec, version="99"))
        try:
            with pytest.raises(BundleMismatchError, match="coop-small 99"):
                CoopSearch("other", uri=folder / "lite.db", models=backend)
        finally:
            store.drop("other")
    assert issubclass(BundleMismatchError, MilvusCoopError)
    with pytest.raises(BundleMismatchError, match="the backend runs"):
        CoopSearch("images", uri=folder / "lite.db", models=FakeBackend(dataclasses.replace(backend.spec, version="99")))


def test_a_collection_of_somebody_else(folder: Path, tmp_path: Path, backend: FakeBackend) -> None:
    from pymilvus import MilvusClient

    uri = str(tmp_path / "theirs.db")
    client = MilvusClient(uri)
    client.create_collection("theirs", dimension=backend.spec.dim, id_type="str", max_length=16, metric_type="COSINE")
    rows = np.eye(3, backend.spec.dim)
    client.insert("theirs", [{"id": f"i{i}", "vector": list(row), "link": f"http://x/{i}"} for i, row in enumerate(rows)])
    with pytest.raises(ForeignCollectionError, match="theirs"):
        CoopSearch("theirs", uri=uri, models=backend)
    with CoopSearch("theirs", uri=uri, models=backend, fields=Fields(embedding="vector", uri="link")) as search:
        result = search.query("a red apple")
    assert {hit.uri for hit in result} == {"http://x/0", "http://x/1", "http://x/2"}
    assert result.reason == "3 of 3 candidates hold nothing that the cross-encoder can read"
    client.close()
