"""Filters that a caller cannot widen: the caller's own filter is checked, and then joined to a fixed one with `and`.

A filter is safe to put into brackets if all of its strings end and all of its brackets match. The check follows the tokens of
Milvus' grammar (`Plan.g4`) and of Milvus Lite. Whatever else is wrong stays within the brackets, and Milvus says so.
"""

from __future__ import annotations

import re

from milvus_coop.errors import FilterError, quoted

_CLOSES = {"(": ")", "[": "]"}
_TOKEN = re.compile(
    r"""
    (?P<string> "(?:[^"\\\x00-\x08\x0a-\x1f\x7f] | \\[\x20-\x7e])*" | '(?:[^'\\\x00-\x08\x0a-\x1f\x7f] | \\[\x20-\x7e])*' )
    | (?P<bracket> [()\[\]] )
    | \w+ | [\x20\t\r\n]+ | [$.,+\-*/%=!<>&|^~]
    """,
    re.VERBOSE,
)
"""A token of a filter. Braces, which name the parameters of a template, are not among them, and no grammar has comments."""


def within(fixed: str, filter: str) -> str:
    """The filter that leaves the rows that both filters leave. An empty filter leaves all rows.

    Raises:
        FilterError: `filter` has a bracket or a quote without its partner, or a character that no filter has outside of strings.
    """
    if not fixed:
        return filter
    check_whole(filter)
    return f"({fixed}) and ({filter})" if filter.strip() else fixed


def check_whole(filter: str) -> None:
    """Check that a filter stays one expression when it is put into brackets.

    Raises:
        FilterError: it may not.
    """
    expected: list[str] = []
    place = 0
    while place < len(filter):
        found = _TOKEN.match(filter, place)
        if found is None:
            raise _odd(filter, f"{quoted(filter[place])} at character {place + 1}")
        sign = found["bracket"]
        if sign in _CLOSES:
            expected.append(_CLOSES[sign])
        elif sign and (not expected or expected.pop() != sign):
            raise _odd(filter, f"'{sign}' at character {place + 1} without its partner")
        place = found.end()
    if expected:
        raise _odd(filter, f"a bracket without its '{expected[-1]}'")


def _odd(filter: str, what: str) -> FilterError:
    return FilterError(
        f"the filter {quoted(filter)} has {what}",
        expected="a Milvus expression such as: year > 2020 and tag == 'cat', whose brackets and quotes match",
    )
