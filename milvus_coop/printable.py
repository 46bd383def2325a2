"""Text from elsewhere, made harmless for a terminal or a log: a caption or a file name may hold control sequences."""

from __future__ import annotations

import json
import unicodedata


def printable(text: str) -> str:
    r"""The text on one line, without control and format characters.

    Whitespace of any kind becomes a space. Format characters (zero-width, direction) are left out, because emoji and some languages
    have them inside words. Control characters, and halves of surrogate pairs from file names, are shown as escapes such as `\x1b`.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def escaped(name: str) -> str:
    r"""A name on one line, with an escape such as `\n` for each character that cannot be shown, so that the name can be found."""
    return name if name.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    if char.isspace():
        return " "
    return "" if unicodedata.category(char) == "Cf" else ascii(char)[1:-1]


def printable_json(text: str) -> str:
    """JSON text with the same meaning, in which every character that `printable` would change is an escape of JSON."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
