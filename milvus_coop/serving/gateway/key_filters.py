"""Filters of API keys: a JSON object that maps the SHA-256 of each key to the filter that limits what the key may read.

A filter that only compares fields with values, such as `tenant == 'a'`, also says what metadata an upload with the key gets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from milvus_coop.errors import FilterError, InvalidArgumentError, quoted, reason_of
from milvus_coop.store.filters import check_whole
from milvus_coop.store.metadata import is_taken

FORM = 'a JSON object such as {"<SHA-256 of the key>": "tenant == \'a\'"}, or the path of a file with one'
HASH = "printf %s KEY | sha256sum"
_AND = re.compile(r"\s+(?:and|AND)\s+|\s*&&\s*")
_EQUALITY = re.compile(
    r"""(?P<name>[A-Za-z_]\w*)\s*==\s*(?:"(?P<double>[^"\\]*)"|'(?P<single>[^'\\]*)'|(?P<json>0|-?[1-9]\d{0,17}|true|false))""",
    re.ASCII,
)
_NAME = re.compile(r""""((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\W\d]\w*)""")
"""A text or a word of a filter; either may name a field, as in `$meta["tenant"]`."""


def read_key_filters(given: str, keys: Iterable[str]) -> Mapping[str, str]:
    """The filter of each key; '' for a key that sees all items.

    Args:
        given: the JSON object, or the path of a file with it. A key's filter is null if it sees all items. '' means no filters.
        keys: the keys. If there are filters, each key must have an entry, so that a forgotten one does not see everything.

    Raises:
        InvalidArgumentError: the object cannot be read, lacks a key or has another, or a filter is blank or not well formed.
    """
    if not given:
        return {}
    content = _content(given)
    hashes = {hashlib.sha256(key.encode()).hexdigest(): key for key in keys}
    for name, filter in content.items():
        if name not in hashes:
            raise _wrong(f"there is no API key with the hash {quoted(name)}", "the SHA-256 of an API key in hex digits", HASH)
        if filter is not None and not (isinstance(filter, str) and filter.strip()):
            raise _wrong(
                f"the filter of {name[:12]} is {quoted(filter)}", "a Milvus expression; null for a key that sees all items"
            )
        try:
            check_whole(filter or "")
        except FilterError as exc:
            raise _wrong(exc.given, exc.expected) from exc
    if missing := sorted(set(hashes) - set(content)):
        raise _wrong(f"the API key with the hash {missing[0][:12]}... has no entry", "one for each key; null if it sees all items")
    return {hashes[name]: filter or "" for name, filter in content.items()}


def fixed_metadata(filter: str) -> dict[str, Any] | None:
    """The metadata that a row needs so that the filter leaves it, if the filter is one or more equalities joined by `and`.

    Returns:
        None for any other filter.
    """
    fixed: dict[str, Any] = {}
    place = 0
    filter = filter.strip()
    while found := _EQUALITY.match(filter, place):
        name = found["name"]
        if is_taken(name) or name in fixed:
            return None
        texts = [text for text in (found["double"], found["single"]) if text is not None]
        fixed[name] = texts[0] if texts else json.loads(found["json"])
        if found.end() == len(filter):
            return fixed
        joined = _AND.match(filter, found.end())
        if joined is None:
            return None
        place = joined.end()
    return None


def named_fields(filters: Iterable[str]) -> frozenset[str]:
    """Every name that these filters may read: all of their words and texts, which are too many rather than too few."""
    return frozenset("".join(found) for whole in filters for found in _NAME.findall(whole))


def _content(given: str) -> dict[str, Any]:
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_without_repetition)
    except (OSError, ValueError, RecursionError) as exc:
        raise _wrong(f"they cannot be read: {reason_of(exc) if isinstance(exc, OSError) else exc}", FORM) from exc
    if not isinstance(content, dict):
        raise _wrong(f"they are of type {type(content).__name__}", FORM)
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(content := dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return content


def _wrong(what: str, expected: str, run: str = "") -> InvalidArgumentError:
    return InvalidArgumentError(f"the filters of the API keys: {what}", expected=expected, run=run)
