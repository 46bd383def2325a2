"""A key's filter against callers who want more: whatever they send as their own filter, no hit lies outside of the key's.

The service is a real one, on Milvus Lite. For the bounds of time and memory see `tests.fuzz.runs`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from starlette.testclient import TestClient

from milvus_coop import CoopIngest, FakeBackend, load_bundle
from tests.fuzz.runs import holds, lengths
from tests.fuzz.test_queries import EXPRESSIONS, PIECES, ROWS, Expression, mutated
from tests.fuzz.values import TEXTS
from tests.gateway.conftest import client_of

FIXED: dict[str, Expression] = {
    "a-key-for-one-tenant": ("year == 2003", lambda row: row["year"] == 2003),
    "a-key-with-or-and-quotes": (
        'title == "ab\'" or good == true and year < 2002',
        lambda r: r["title"] == "ab'" or (r["good"] and r["year"] < 2002),
    ),
    "a-key-for-nothing": ("title == 'nobody has this'", lambda row: False),
}
"""The filter of each key, and the function that says which rows it leaves."""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("limited")
    (folder / "photos").mkdir()
    backend = FakeBackend(load_bundle("coop-small").spec)
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    with CoopIngest("texts", kind="text", uri=folder / "lite.db", models=backend) as ingest:
        assert ingest.run(folder / "list.jsonl").added == len(ROWS)
    filters = {hashlib.sha256(key.encode()).hexdigest(): filter for key, (filter, _) in FIXED.items()}
    options: dict[str, Any] = {"api_keys": tuple(FIXED), "key_filters": json.dumps(filters)}
    with client_of(folder, backend=backend, settings={"collection": "texts"}, **options) as client:
        yield client


NOISE = st.just("") | st.sampled_from(
    [
        *(
            "'",
            '"',
            "\\",
            "\\'",
            "')",
            '")',
            "]",
            "/*",
            "//",
            "--",
            "#",
            "{",
            "}",
            "\u2019",
            "\uff09",
            "r'",
            "u8'",
            "\n",
            "\t",
            " ",
            "\0",
            ",",
        ),
        "",
    ]
)
OR = st.sampled_from([" or ", "||", "\nOR\n", " or not not ", " or 1 == 2 or "])
NARROW = st.sampled_from(
    ["year > 0", "1 == 1", "title == 'a'", "year in [1, 2]", 'title == "("', "title == '\\'('", "not good == true"]
)
WIDE = st.sampled_from(
    ["year > 0", "id != ''", "1 == 1", "year in [2000, 2001, 2002]", "title like '%'", "not (year < 0)", "exists year"]
)


@st.composite
def breakouts(draw: st.DrawFn) -> str:
    """A filter that closes what it did not open, adds a wider one, and opens again what the service will close."""
    depth, closes = draw(st.integers(1, 2)), draw(st.sampled_from([")", ") ", "')", '")', "]"]))
    parts = [draw(NARROW | mutated()), closes * depth, draw(OR), draw(st.sampled_from(["(", "((", " ("])) * depth, draw(WIDE)]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        parts.insert(draw(st.integers(0, len(parts))), draw(NOISE))
    return "".join(parts)


@lengths(short=300, long=6000)
def test_no_filter_widens_a_key(inputs: int, limited: TestClient) -> None:
    answered = 0

    def rule(asked: tuple[str, str, bool]) -> None:
        nonlocal answered
        key, filter, rerank = asked
        body = json.dumps({"text": "a dog", "filter": filter, "limit": len(ROWS), "output_fields": ["*"], "rerank": rerank})
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        answer = limited.post("/v1/search", content=body.encode(), headers=headers)
        if answer.status_code == 200:
            answered += 1
            assert {hit["text"] for hit in answer.json()["hits"]} <= {row["text"] for row in ROWS if FIXED[key][1](row)}
        else:
            assert answer.status_code in (400, 422)

    filters = (
        breakouts() | breakouts() | mutated() | TEXTS | st.lists(PIECES | NARROW | OR | WIDE | NOISE, max_size=8).map(" ".join)
    )
    holds(rule, st.tuples(st.sampled_from(sorted(FIXED)), filters, st.booleans()), inputs)
    assert answered > inputs // 20


@lengths(short=100, long=1500)
def test_a_fitting_filter_gives_what_both_leave(inputs: int, limited: TestClient) -> None:
    def rule(asked: tuple[str, Expression]) -> None:
        key, (filter, fits) = asked
        answer = limited.post(
            "/v1/search",
            json={"text": "a dog", "filter": filter, "limit": len(ROWS), "rerank": False},
            headers={"authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 200
        assert {hit["text"] for hit in answer.json()["hits"]} == {r["text"] for r in ROWS if fits(r) and FIXED[key][1](r)}

    holds(rule, st.tuples(st.sampled_from(sorted(FIXED)), EXPRESSIONS), inputs)
