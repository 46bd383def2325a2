"""Checks of arguments that several calls share. A message names the argument and quotes the beginning of what was given."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from milvus_coop.errors import InvalidArgumentError, UnknownArgumentError, quoted

LARGEST = 2**31 - 1
"""Maximum of whole numbers that have no smaller one."""
LONGEST_PATH = 4095
LONGEST_NAME = 255
"""Maximum length of a path, and of the name of a file in bytes, on Linux."""


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """The value as an int, if it is a whole number of any type (NumPy's too) from `low` to `high`; True does not count."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise InvalidArgumentError(f"{name} is {quoted(value)}", expected=f"a whole number from {low:,} to {high:,}")
    return number


def real_number(name: str, value: object, expected: str, *, above: float = -math.inf, maximum: float = math.inf) -> float:
    """The value as a float, if it is a finite number that is more than `above` and at most `maximum`; True and '1' do not count."""
    try:
        number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number) or not above < number <= maximum:
        raise InvalidArgumentError(f"{name} is {quoted(value)}", expected=expected)
    return number


def string(name: str, value: object) -> str:
    """The value, if it is a string that UTF-8 can write."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is {quoted(value)}", expected="a string")
    try:
        value.encode()
    except UnicodeEncodeError as exc:  # a lone surrogate, which Python creates from bytes of another encoding
        raise InvalidArgumentError(f"{name} is not valid Unicode: {quoted(value)}", expected="text that UTF-8 can write") from exc
    return value


def length_of(values: object) -> int | None:
    """The number of values; None if it is not known before they are read."""
    try:
        return len(values)  # type: ignore[arg-type]
    except TypeError:  # tqdm's progress bar has a length only if its iterable has one
        return None


def as_path(name: str, value: str | os.PathLike[str]) -> Path:
    """The value as a path, if a file or folder can have that name."""
    text = os.fspath(value)
    try:
        parts = os.fsencode(text).split(os.sep.encode())
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(f"{name} is {quoted(text)}, which cannot name a file", expected="valid Unicode") from exc
    if "\0" in text or len(text) > LONGEST_PATH or max(map(len, parts)) > LONGEST_NAME:
        raise InvalidArgumentError(
            f"{name} is {quoted(text)}, which cannot name a file",
            expected=f"at most {LONGEST_PATH:,} characters, and {LONGEST_NAME} bytes between two '/'",
        )
    return Path(text)


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgumentError(f"{name} is {quoted(value)}", expected=" or ".join(choices))


def many(name: str, values: Any, expected: str) -> list[Any]:
    """The values of any iterable as a list; see `iterable`."""
    return list(iterable(name, values, expected))


def iterable(name: str, values: Any, expected: str) -> Iterable[Any]:
    """The same values, of which none is taken yet. One string, path or bytes object is refused, and so is a mapping.

    The characters of a string or the keys of a mapping would otherwise be taken for the values.
    """
    try:
        if not isinstance(values, str | bytes | bytearray | memoryview | os.PathLike | Mapping):
            iter(values)  # a generator is its own iterator, so this takes nothing from it
            return values  # type: ignore[no-any-return]
    except TypeError:
        pass
    raise InvalidArgumentError(f"{name} is {quoted(values)}", expected=expected)


def strings(name: str, values: Any, expected: str) -> list[str]:
    """The values of any iterable as a list, if all are strings that UTF-8 can write; see `many`."""
    return [string(f"an element of {name}", value) for value in many(name, values, expected)]


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Check that all names of keyword arguments are known.

    Raises:
        UnknownArgumentError: one is not; the message has the known name that is most like it.
    """
    names = list(known)
    for name in given:
        if name not in names:
            like = difflib.get_close_matches(name, names, 1)
            raise UnknownArgumentError(f"there is no argument {quoted(name)}", expected=like[0] if like else ", ".join(names))
