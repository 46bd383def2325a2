"""Records from JSON. msgspec checks the types and bounds of a dataclass's fields; a mistake becomes an error of our own.

The message names the field, the value that was given, and what is expected. A field that the dataclass lacks is a mistake too.
"""

from __future__ import annotations

import difflib
import functools
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from milvus_coop.errors import MilvusCoopError, reason_of, shortened

EXPECTED = "expected"
"""Key in the `extra` of a `Meta`: the words for what a field expects, if its type does not say it well, such as a pattern."""
_SHOWN = 60

Record = TypeVar("Record")
Fault = tuple[str, str]
"""The given value in words, and the expected one."""


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """The facts about a field of a dataclass from which an option of a command is made."""

    name: str
    type: type
    """bool, int, float or str. Everything else, such as a list, is str here. A bound is a number of this type, or None."""
    choices: tuple[Any, ...]
    """The values of a `Literal`, in order. Empty for other types."""
    at_least: Any
    above: Any
    at_most: Any
    below: Any
    default: Any
    """None if there is no default."""
    description: str
    extra: Mapping[str, Any]


def fields_of(record: type) -> Iterator[FieldFacts]:
    """The facts about each field, in order. A field that may be None has the type of its other values."""
    for field in fields(record):
        hint = _hints(record)[field.name]
        info = inspect.type_info(hint)
        meta = info if isinstance(info, inspect.Metadata) else inspect.Metadata(info)
        info = meta.type
        if isinstance(info, inspect.UnionType):
            info = next(one for one in info.types if not isinstance(one, inspect.NoneType))
        yield FieldFacts(
            name=field.name,
            type=_TYPES.get(type(info), str),
            choices=get_args(_plain(hint)) if isinstance(info, inspect.LiteralType) else (),
            at_least=getattr(info, "ge", None),
            above=getattr(info, "gt", None),
            at_most=getattr(info, "le", None),
            below=getattr(info, "lt", None),
            default=None if field.default is MISSING else field.default,
            description=(meta.extra_json_schema or {}).get("description", ""),
            extra=meta.extra or {},
        )


_TYPES: Mapping[type[inspect.Type], type] = {inspect.BoolType: bool, inspect.IntType: int, inspect.FloatType: float}


def parse_json(text: str | bytes, source: str, error: type[MilvusCoopError]) -> Any:
    """The content of a JSON text.

    Raises:
        MilvusCoopError: the text is not JSON. It is an `error`, and names the `source`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise error(f"{source} is not JSON: {exc}", expected="a JSON object") from exc


def read_record(kind: type[Record], content: Any, error: type[MilvusCoopError], source: str = "", run: str = "") -> Record:
    """Make a dataclass from the content of a JSON text.

    Args:
        kind: the dataclass.
        content: the content, as `json` parses it.
        error: the type of the error.
        source: the origin of the content, for the message; '' if it goes without saying.
        run: what solves the problem, for the message.

    Raises:
        MilvusCoopError: a field is unknown, is missing, or has a wrong value. It is an `error`, or the own error of the dataclass.
    """
    for given, expected in _faults(kind, content, ""):
        raise error(f"{source}: {given}" if source else given, expected=expected, run=run)
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as exc:
        if isinstance(exc.__cause__, MilvusCoopError):
            raise exc.__cause__ from None
        raise error(f"{source}: {exc}" if source else str(exc), run=run) from exc


def read_file(kind: type[Record], path: Path, error: type[MilvusCoopError]) -> Record:
    """Make a dataclass from a JSON file; see `read_record`. A file that cannot be read is an `error` as well."""
    return read_record(kind, parse_file(path, error), error, str(path))


def parse_file(path: Path, error: type[MilvusCoopError]) -> Any:
    """The content of a JSON file; see `parse_json`. A file that cannot be read is an `error` as well."""
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise error(f"{path} cannot be read: {reason_of(exc)}", expected="a JSON file") from exc
    return parse_json(text, str(path), error)


def check_record(record: Any, error: type[MilvusCoopError]) -> None:
    """Check the fields of a dataclass that was made by a call.

    Raises:
        MilvusCoopError: a field has a wrong value. It is an `error`.
    """
    for name, kind in _hints(type(record)).items():
        for given, expected in _faults(kind, getattr(record, name), name):
            raise error(given, expected=expected)


def describe(kind: Any) -> str:
    """The values that a type expects, in words."""
    if get_origin(inner := _plain(kind)) is Literal:
        return f"one of {', '.join(str(value) for value in get_args(inner) if value)}"
    return _describe(inspect.type_info(kind))


def _describe(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra or {}).get(EXPECTED) or _describe(kind.type))
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_describe(one) for one in kind.types if not isinstance(one, inspect.NoneType))
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return ("a whole number" if isinstance(kind, inspect.IntType) else "a number") + _bounds(kind)
    if isinstance(kind, inspect.StrType) and kind.max_length is not None:
        return f"text of {kind.min_length or 0} to {kind.max_length:,} characters"
    if isinstance(kind, inspect.TupleType):
        return f"a list of {len(kind.item_types)}"
    return _WORDS.get(type(kind), "an object")


_WORDS: Mapping[type[inspect.Type], str] = {
    inspect.StrType: "text",
    inspect.BoolType: "true or false",
    inspect.VarTupleType: "a list",
    inspect.ListType: "a list",
}


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge:,} to {kind.le:,}"
    words = (("at least", kind.ge), ("above", kind.gt), ("at most", kind.le), ("below", kind.lt))
    said = [f"{word} {bound:,}" for word, bound in words if bound is not None]
    return f", {' and '.join(said)}" if said else ""


def _hints(kind: Any) -> dict[str, Any]:
    return _cached_hints(kind)


@functools.cache
def _cached_hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _faults(kind: Any, value: Any, path: str) -> Iterator[Fault]:
    """The faults of a value that should be of a kind. `path` is its place, such as `graphs[0].max_batch`."""
    inner = _plain(kind)
    if is_dataclass(inner) and isinstance(value, dict):
        yield from _faults_of_names(inner, value, path)
        for name, hint in _hints(inner).items():
            if name in value:
                yield from _faults(hint, value[name], f"{path}.{name}" if path else name)
        return
    found = False
    for hint, item, place in _items(inner, value, path):
        for fault in _faults(hint, item, place):
            found = True
            yield fault
    try:
        if not found:
            msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError, RecursionError):
        yield f"{path or 'the content'} is {_short(value)}", describe(kind)


def _faults_of_names(kind: Any, value: dict[Any, Any], path: str) -> Iterator[Fault]:
    start = f"{path}." if path else ""
    known = {field.name: field for field in fields(kind)}
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            yield f"there is no field {_short(start + str(name))}", near[0] if near else f"one of {', '.join(known)}"
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            yield f"the field {_short(start + name)} is missing", describe(_hints(kind)[name])


def _plain(kind: Any) -> Any:
    """A kind without its bounds, and without `None` beside it."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        others = [one for one in get_args(kind) if one is not type(None)]
        return _plain(others[0]) if len(others) == 1 else kind
    return kind


def _items(kind: Any, value: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """The items of a list or of a mapping: kind, value and place of each."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        every = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        yield from ((hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(every, value, strict=False)))
    elif get_origin(kind) is Mapping and isinstance(value, dict):
        for key, item in value.items():
            yield arguments[0], key, f"a name in {path}"
            yield arguments[1], item, f"{path}[{_short(key)}]"


def _short(value: Any) -> str:
    return shortened(json.dumps(value, default=str), _SHOWN)
