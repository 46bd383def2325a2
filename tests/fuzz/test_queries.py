"""Any query gives hits that fit its options, or an own error; a filter gives the right hits, or says that it is wrong.

The collection is a real one, on Milvus Lite. For the bounds of time and memory see `tests.fuzz.runs`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from milvus_coop import CoopIngest, CoopSearch, FakeBackend, load_bundle
from milvus_coop.errors import DeadlineExceededError, FilterError, ImageError, InvalidArgumentError
from tests.fuzz.images import damaged_files, files
from tests.fuzz.lists import PLACES
from tests.fuzz.runs import check_message, holds, lengths
from tests.fuzz.values import JSON_VALUES, NAMES, OTHER_SCALARS, TEXTS

ROWS: list[dict[str, Any]] = [
    {"text": f"text number {i}", "year": 2000 + i // 3, "title": "ab'c"[: i % 5], "good": i % 2 == 0, "share": i / 4, "naïve": i}
    for i in range(24)
]
MAX_K = 16_384


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoopSearch]:
    """A collection of texts: queries by a text are not reranked, queries by an image are."""
    folder = tmp_path_factory.mktemp("queries")
    backend = FakeBackend(load_bundle("coop-small").spec)
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    with CoopIngest("texts", kind="text", uri=folder / "lite.db", models=backend) as ingest:
        assert ingest.run(folder / "list.jsonl").added == len(ROWS)
    with CoopSearch("texts", uri=folder / "lite.db", models=backend) as opened:
        yield opened


HOSTILE = JSON_VALUES | OTHER_SCALARS
WHOLE = st.integers(-2, 30) | st.sampled_from([MAX_K, MAX_K + 1, 2**31, 2**63, -(2**63), 10**30]) | st.integers(0, 30).map(np.int64)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "limit": WHOLE,
    "offset": WHOLE,
    "k": st.none() | WHOLE,
    "filter": st.sampled_from(["", "year > 2003", "good == true", "year >"]) | TEXTS,
    "output_fields": st.lists(NAMES | st.sampled_from(["*", "good", "share"]), max_size=4).map(tuple),
    "rerank": st.booleans(),
    "deadline_ms": st.none() | st.sampled_from([1e-300, 0.001, 1, 1e300, 0, -1, float("nan"), float("inf"), 10**400]),
    "score": st.none() | st.sampled_from(["ce", "sum", "SUM"]),
    "min_score": st.none() | st.floats(-2, 2) | st.sampled_from([float("nan"), 10**400, 0, 1]),
}
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "limit": st.integers(1, 30) | st.just(MAX_K),
    "offset": st.integers(0, 30),
    "k": st.none() | st.integers(1, 30) | st.just(MAX_K),
    "filter": st.sampled_from(["", "year > 2003", "good == true"]),
    "output_fields": st.lists(st.sampled_from(["year", "naïve", "none", "*"]), max_size=3),
    "rerank": st.booleans(),
    "deadline_ms": st.none() | st.sampled_from([1e-300, 0.001, 1, 1000]),
    "score": st.sampled_from([None, "ce", "sum"]),
    "min_score": st.none() | st.floats(0, 1),
}


def few(options: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """At most two of the options."""
    return st.lists(st.sampled_from(sorted(options)), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: options[name] for name in names})
    )


CHANGES = st.one_of(
    st.fixed_dictionaries({}, optional=FITTING),
    few(FITTING),
    few(FITTING),
    few(OPTIONS),
    st.fixed_dictionaries({}, optional=OPTIONS),
    st.fixed_dictionaries({}, optional={name: values | HOSTILE for name, values in OPTIONS.items()}),
    st.dictionaries(st.sampled_from([*OPTIONS, "Limit", "top_k", "text_", ""]), HOSTILE, max_size=2),
)


@st.composite
def image_inputs(draw: st.DrawFn) -> Any:
    """An image of a caller: of any type, damaged or not, and what only looks like one."""
    kind = draw(st.sampled_from(["file", "damaged", "place", "path", "odd", "pillow"]))
    if kind in ("file", "damaged"):
        content = draw(damaged_files()) if kind == "damaged" else files()[draw(st.sampled_from(sorted(files())))]
        return draw(st.sampled_from([bytes, bytearray, memoryview]))(content)
    if kind == "pillow":
        mode = draw(st.sampled_from(["RGB", "L", "P", "1", "LA", "I;16", "F", "CMYK", "YCbCr", "HSV", "LAB"]))
        return Image.new(mode, (draw(st.integers(0, 5)), draw(st.integers(0, 5))))
    if kind == "odd":
        return draw(HOSTILE)
    place = draw(PLACES | st.sampled_from(["file:///dev/zero", "/dev/zero", "/dev/null", "", "FILE://localhost/x", "data:,x"]))
    return place if kind == "place" else Path(place)


@lengths(short=150, long=2000)
@pytest.mark.filterwarnings("ignore")  # Pillow's reader of TIFF tags warns
def test_queries(inputs: int, search: CoopSearch) -> None:
    answered = 0

    def rule(query: tuple[dict[str, Any], dict[str, Any]]) -> None:
        nonlocal answered
        asked, changes = query
        try:
            result = search.query(**asked, **changes)
        except (InvalidArgumentError, FilterError, ImageError) as exc:  # no fault of Milvus or of the backend
            check_message(exc)
            return
        except DeadlineExceededError:
            assert changes["deadline_ms"] <= 1000  # a busy machine may need more
            return
        answered += 1
        offset, limit = int(changes.get("offset", 0)), int(changes.get("limit", 10))
        assert [hit.rank for hit in result] == list(range(offset + 1, offset + 1 + len(result)))
        assert len(result) <= limit
        if result.reranked or not changes.get("rerank", True):
            assert [hit.score for hit in result] == sorted((hit.score for hit in result), reverse=True)
        if (least := changes.get("min_score")) is not None:
            assert all((hit.ce_score if changes.get("rerank", True) else hit.be_score) >= least for hit in result)
        names = list(changes.get("output_fields", ()))
        assert "*" in names or all(set(hit.fields) <= set(names) for hit in result)

    texts = TEXTS | st.sampled_from(["a dog", "a" * 20_000, "a" * 20_001])
    asked = st.one_of(
        texts.map(lambda text: {"text": text}),
        image_inputs().map(lambda image: {"image": image}),
        HOSTILE.map(lambda text: {"text": text}),
        st.just({"text": "a dog"}),
        st.just({"text": "a cat"}),
        st.just({"image": files()["webp"]}),
        st.just({"image": files()["png"]}),
    )
    holds(rule, st.tuples(asked, CHANGES), inputs)
    assert inputs // 10 < answered < inputs


@lengths(short=60, long=600)
@pytest.mark.filterwarnings("ignore")
def test_many_queries_and_ids(inputs: int, search: CoopSearch) -> None:
    ids = [hit.id for hit in search.query("a dog", rerank=False, limit=3)]

    def rule(given: tuple[Any, Any, Any]) -> None:
        texts, some, image = given
        calls: tuple[Callable[[], Any], ...] = (
            lambda: search.query_many(texts),
            lambda: search.rerank(image=image, ids=some),
            lambda: search.ranker(image=image, endpoint=texts),
            lambda: search.uris(some),
        )
        for call in calls:
            try:
                call()
            except (InvalidArgumentError, ImageError) as exc:
                check_message(exc)

    many = st.lists(TEXTS, max_size=3) | st.lists(HOSTILE, max_size=2) | HOSTILE | st.sampled_from([["a dog"], "a dog"])
    of_ids = st.lists(st.sampled_from(ids) | TEXTS, max_size=4) | HOSTILE
    holds(rule, st.tuples(many, of_ids, image_inputs() | st.just(files()["jpeg"])), inputs)


Expression = tuple[str, Callable[[dict[str, Any]], bool]]
"""A filter, and the function that says which rows it leaves."""
LITERALS: dict[str, st.SearchStrategy[Any]] = {
    "year": st.integers(1998, 2010),
    "naïve": st.integers(-1, 25),
    "share": st.integers(-1, 25).map(lambda i: i / 4),
    "title": st.sampled_from(["", "a", "ab", "ab'", "ab'c", "x", '"', "\\"]),
    "good": st.booleans(),
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


def _written(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)


@st.composite
def comparisons(draw: st.DrawFn) -> Expression:
    """One field compared with a value, or with a list of values."""
    name = draw(st.sampled_from(sorted(LITERALS)))
    field = draw(st.sampled_from([name, f'$meta["{name}"]']))
    if draw(st.booleans()) and field == name and name != "good":
        among = draw(st.lists(LITERALS[name], min_size=1, max_size=4))
        return f"{field} in [{', '.join(map(_written, among))}]", lambda row: row[name] in among
    sign = draw(st.sampled_from(["==", "!="] if name in ("good", "title") else sorted(COMPARISONS)))
    value = draw(LITERALS[name])
    return f"{field} {sign} {_written(value)}", lambda row: COMPARISONS[sign](row[name], value)


def _both(pair: tuple[Expression, Expression, bool]) -> Expression:
    (left, is_left), (right, is_right), conjunction = pair
    if conjunction:
        return f"({left}) and ({right})", lambda row: is_left(row) and is_right(row)
    return f"({left}) or ({right})", lambda row: is_left(row) or is_right(row)


EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    comparisons(),
    lambda inner: (
        st.tuples(inner, inner, st.booleans()).map(_both) | inner.map(lambda one: (f"not ({one[0]})", lambda row: not one[1](row)))
    ),
    max_leaves=5,
)
PIECES = st.sampled_from(
    [
        *("and", "or", "not", "in", "like", "exists", "is null", "==", "=", "<", "(", ")", "[", "]", "'", '"', "\\", "$meta", "-"),
        *(
            "text_match(title, 'a')",
            "json_contains(year, 1)",
            "random_sample(0.5)",
            "count(*)",
            "{x}",
            "1e999",
            "9" * 30,
            "//",
            "%",
        ),
        *("\0", "\n", "*", "year", "id", "embedding", "text", "naïve", "true", "null", "year month", "(" * 200, "not " * 100),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A filter after one to four changes."""
    filter = draw(EXPRESSIONS)[0]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(filter)))
        end = draw(st.integers(start, min(len(filter), start + 12)))
        kind = draw(st.sampled_from(["delete", "repeat", "piece", "text", "cut"]))
        new = {"delete": "", "repeat": 2 * filter[start:end], "piece": f" {draw(PIECES)} ", "text": draw(TEXTS), "cut": ""}[kind]
        filter = filter[:start] + new + (filter[end:] if kind != "cut" else "")
    return filter


def _texts(search: CoopSearch, filter: str) -> set[str]:
    return {str(hit.text) for hit in search.query("a dog", filter=filter, rerank=False, limit=len(ROWS))}


@lengths(short=100, long=1500)
def test_filters_leave_the_right_rows(inputs: int, search: CoopSearch) -> None:
    def rule(expression: Expression) -> None:
        filter, fits = expression
        assert _texts(search, filter) == {row["text"] for row in ROWS if fits(row)}

    holds(rule, EXPRESSIONS, inputs)


@lengths(short=150, long=2500)
def test_damaged_filters(inputs: int, search: CoopSearch) -> None:
    texts = {row["text"] for row in ROWS}

    def rule(filter: str) -> None:
        try:
            assert _texts(search, filter) <= texts
        except (FilterError, InvalidArgumentError) as exc:
            check_message(exc)

    holds(rule, mutated() | TEXTS | st.lists(PIECES, max_size=8).map(" ".join), inputs)
