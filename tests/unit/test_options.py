"""`QueryOptions` and `Settings`: the records of a query and of a connection check what they are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milvus_coop import MilvusCoopError, QueryOptions, Settings
from milvus_coop.config import SettingsArguments
from milvus_coop.errors import LONGEST_QUOTE, InvalidArgumentError, UnknownArgumentError, quoted
from milvus_coop.search.options import QueryArguments, options_of

ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=300),
    st.sampled_from(["\ud83d", "caf\udce9", "\0"]),
    st.binary(max_size=300).map(bytearray),
    st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([np.int64(3), np.float32(0.5), np.bool_(True), object(), 10**5000, Path("x"), 1j, {"a"}, b"x" * 10_000]),
)


def names_of(record: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(record)]


def made_or_refused(record: Callable[..., Any], name: str, value: object) -> Any:
    """The record with that value; None if it refuses the value with a short message that names the field."""
    try:
        return record(**{name: value})
    except InvalidArgumentError as exc:
        message = str(exc)
    assert name in message
    assert len(message) < LONGEST_QUOTE + 150
    return None


def test_the_keyword_arguments_are_the_fields() -> None:
    assert list(QueryArguments.__annotations__) == names_of(QueryOptions)
    own = {"collection", "models"}  # parameters of the constructors
    assert sorted(SettingsArguments.__annotations__) == sorted(name for name in names_of(Settings) if name not in own)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(names_of(QueryOptions)), value=ANYTHING)
def test_any_value_of_an_option_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    options = made_or_refused(QueryOptions, name, value)
    if options is not None:
        assert options == QueryOptions().change(**{name: value})
        assert hash(options) == hash(dataclasses.replace(options))
        assert options.retrieve >= options.candidates >= 1


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(names_of(Settings)), value=ANYTHING)
def test_any_value_of_a_setting_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    made = made_or_refused(Settings, name, value)
    if made is not None:
        assert type(getattr(made, name)) is type(getattr(Settings(), name))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("limit", 0, "limit is 0; expected: a whole number from 1 to 16,384"),
        ("limit", True, "limit is True"),
        ("limit", 3.0, "limit is 3.0"),
        ("limit", None, "limit is None"),
        ("offset", -1, "offset is -1; expected: a whole number from 0"),
        ("offset", 16_383, "offset \\+ limit is 16,393; expected: at most 16,384"),
        ("k", 16_385, "k is 16385"),
        ("filter", {"year": 1}, "filter is {'year': 1}; expected: a string"),
        ("filter", "\ud83d", r"filter is not valid Unicode: '\\ud83d'; expected: text"),
        ("output_fields", "year", "output_fields is 'year'; expected: a list of field names"),
        ("output_fields", None, "output_fields is None"),
        ("output_fields", {"year": 1}, "output_fields is {'year': 1}"),
        ("output_fields", [1], "an element of output_fields is 1; expected: a string"),
        ("output_fields", [""], "output_fields has an empty name"),
        ("rerank", "no", "rerank is 'no'; expected: True or False"),
        ("deadline_ms", float("nan"), "deadline_ms is nan; expected: more than 0"),
        ("deadline_ms", float("inf"), "deadline_ms is inf"),
        ("deadline_ms", 0, "deadline_ms is 0"),
        ("deadline_ms", "5", "deadline_ms is '5'"),
        ("score", "both", "score is 'both'; expected: ce or sum"),
        ("score", ["ce"], "score is \\['ce'\\]"),
        ("min_score", 50, "min_score is 50; expected: a match probability from 0 to 1"),
        ("min_score", float("nan"), "min_score is nan"),
    ],
)
def test_a_value_that_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{message}"):
        QueryOptions(**{name: value})  # type: ignore[arg-type]


def test_values_are_converted() -> None:
    options = QueryOptions(limit=np.int64(3), deadline_ms=np.float32(5), output_fields=(name for name in ("a", "b")))  # type: ignore[arg-type]
    assert (type(options.limit), type(options.deadline_ms), options.output_fields) == (int, float, ("a", "b"))
    assert QueryOptions(rerank=False, min_score=-0.2).min_score == -0.2


def test_the_candidates_do_not_depend_on_the_page() -> None:
    pages = [QueryOptions(limit=20, offset=offset) for offset in (0, 20, 40, 60)]
    assert {page.candidates for page in pages} == {50}
    assert [page.retrieve for page in pages] == [50, 50, 60, 80]
    assert QueryOptions(limit=70, offset=70).candidates == 70
    assert QueryOptions(limit=70, k=5).retrieve == 70


def test_changes_replace_values_of_the_record() -> None:
    options = QueryOptions(limit=3, filter="year > 1")
    assert options_of(options, {"limit": 5}) == QueryOptions(limit=5, filter="year > 1")
    assert options_of(None, {}) == QueryOptions()
    with pytest.raises(InvalidArgumentError, match=r"options is {'limit': 3}; expected: a QueryOptions object"):
        options_of({"limit": 3}, {})  # type: ignore[arg-type]


def test_an_unknown_name_is_also_a_type_error() -> None:
    calls: tuple[tuple[Callable[..., Any], str, str], ...] = (
        (QueryOptions().change, "limits", "limit"),
        (QueryOptions().change, "minscore", "min_score"),
        (Settings().override, "timeout", "timeout_s"),
    )
    for call, name, like in calls:
        with pytest.raises(UnknownArgumentError, match=f"^there is no argument '{name}'; expected: {like}$") as caught:
            call(**{name: 1})
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, MilvusCoopError)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("uri", 5, "uri is 5; expected: a string"),
        ("token", b"secret", "token is a bytes; expected: a string"),
        ("timeout_s", float("nan"), "timeout_s is nan; expected: more than 0 and at most 86,400 seconds"),
        ("timeout_s", 0, "timeout_s is 0"),
        ("threads", -1, "threads is -1; expected: a whole number from 0 to 1,024"),
        ("threads", 2.5, "threads is 2.5"),
    ],
)
def test_a_setting_that_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{message}"):
        Settings().override(**{name: value})


def test_what_a_message_quotes_is_short() -> None:
    for value in ("x" * 100_000, ["x" * 100_000] * 9, dict.fromkeys(range(99), "x" * 90), 10**5000, object(), bytearray(200_000)):
        assert len(quoted(value)) <= LONGEST_QUOTE
    assert quoted(bytearray(200_000)) == "200,000 bytes"
    assert quoted("\x1b[2J\u202e") == r"'\x1b[2J\u202e'"
