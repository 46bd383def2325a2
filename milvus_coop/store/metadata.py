"""The metadata that a collection can hold: JSON values whose numbers fit into Milvus' types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.store.schema import RESERVED, VARCHAR_BYTES

DEEPEST = 32
"""Maximum number of nested levels in metadata. The JSON writers for clients fail somewhere beyond 200 levels."""
SHOWN = 60
"""Maximum number of characters of a key that an error repeats."""

_EXPECTED = "texts, finite numbers, booleans, None, and lists and dicts of them"


def is_taken(name: str) -> bool:
    """True if metadata cannot use the name, because it is a field of the collection, or because Milvus does not take it."""
    return not name or name.startswith("$") or name in RESERVED


def plain_metadata(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Metadata as plain JSON values, and its size in bytes as JSON. Numbers of NumPy become plain, and tuples become lists.

    Raises:
        InvalidArgumentError: Milvus cannot hold it, at any depth; the message names the key.
    """
    for name in metadata:
        if isinstance(name, str) and is_taken(name):
            raise InvalidArgumentError(
                f"the name '{_shown(name)}' is taken by the collection; rename it",
                expected=f"a name that does not start with $ and is none of {', '.join(sorted(RESERVED))}",
            )
    plain = _plain(metadata, "the metadata", 0)
    n_bytes = len(json.dumps(plain, ensure_ascii=False).encode())
    if n_bytes > VARCHAR_BYTES:
        raise InvalidArgumentError(f"the metadata has {n_bytes:,} bytes", expected=f"at most {VARCHAR_BYTES:,}")
    return dict(plain), n_bytes


def _plain(value: Any, place: str, depth: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, place)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgumentError(f"{place} does not fit into 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgumentError(f"{place} is not a finite number")
        return float(value)
    if not isinstance(value, Mapping | list | tuple):
        raise InvalidArgumentError(f"{place} is of type {type(value).__name__}", expected=_EXPECTED)
    if depth >= DEEPEST:
        raise InvalidArgumentError("the metadata is nested too deeply", expected=f"at most {DEEPEST} levels")
    if isinstance(value, Mapping):
        plain = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidArgumentError(f"{place} has a key of type {type(key).__name__}", expected="keys that are texts")
            plain[_text(key, "a key")] = _plain(inner, f"'{_shown(key)}'", depth + 1)
        return plain
    return [_plain(inner, place, depth + 1) for inner in value]


def _text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:  # a lone surrogate
        raise InvalidArgumentError(f"{place} is not valid Unicode", expected="text that UTF-8 can write") from exc
    return str(text)


def _shown(key: str) -> str:
    return ascii(key)[1:-1][:SHOWN] if not key.isprintable() else key[:SHOWN]
