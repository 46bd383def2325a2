"""The options of one call, in the words of a framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from milvus_coop.arguments import check_names
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.search.options import QueryOptions

NAMES = tuple(item.name for item in fields(QueryOptions))


def changed(options: QueryOptions, given: Mapping[str, Any], words: Mapping[str, str]) -> QueryOptions:
    """A copy of the options with the arguments that a call was given.

    Args:
        options: the options that hold where the call says nothing else.
        given: the arguments, by the framework's name or by the name of the field of `QueryOptions`.
        words: the field for each name that is the framework's own. It wins over a field of the same name.

    Raises:
        UnknownArgumentError: there is no such argument.
        InvalidArgumentError: a value has the wrong type or is out of range, or is given under two names. The message has the
            framework's name.
    """
    check_names(given, dict.fromkeys((*words, *NAMES)))
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = words.get(name, name)
        if field in values:
            both = " and ".join(other for other in given if words.get(other, other) == field)
            raise InvalidArgumentError(f"{both} are both given", expected="one of them, because they mean the same")
        values[field] = value
    try:
        return options.change(**values)
    except InvalidArgumentError as exc:  # it names the fields
        names = {field: name for name, field in words.items()}
        fields_, joined, rest = exc.given.partition(" is ")
        given_ = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), fields_)
        raise type(exc)(given_ + joined + rest, expected=exc.expected, run=exc.run) from exc
