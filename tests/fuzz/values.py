"""Generated texts and metadata, of everything that a Python caller or a line of JSON can hold."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)
"""Texts with all characters, also controls, directions and halves of surrogate pairs."""

JSON_SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-(2**80), 2**80) | st.floats() | TEXTS
OTHER_SCALARS = st.one_of(
    st.binary(max_size=4),
    st.dates(),
    st.just(datetime.timedelta(1)),
    st.decimals(),
    st.complex_numbers(),
    st.frozensets(st.integers(), max_size=2),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.floats(width=32).map(np.float32),
    st.booleans().map(np.bool_),
    st.just(np.longdouble(1)),
    st.just(np.zeros(2)),
    st.just(np.datetime64("2020-01-01")),
    st.just(object()),
    st.just(decimal.Decimal("NaN")),
)
NAMES = TEXTS | st.sampled_from(["id", "uri", "text", "path", "year", "a b", "$meta", "", "é", "0", "embedding", "title"])


def _nested(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8)


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


JSON_VALUES = _nested(JSON_SCALARS, NAMES) | st.integers(25, 40).map(deep)
"""Values that `json.dumps` can write as one line, valid JSON or not."""

JSON_METADATA = st.dictionaries(NAMES, JSON_VALUES, max_size=4)

METADATA = st.dictionaries(
    NAMES, _nested(JSON_SCALARS | OTHER_SCALARS, NAMES | st.integers() | st.none() | st.binary()), max_size=4
)
"""Metadata that a Python caller may give."""
