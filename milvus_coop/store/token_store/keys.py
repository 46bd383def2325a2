"""Names of token files: what a row remembers, and what alone may be opened."""

from __future__ import annotations

import hashlib
import re

KEY_BYTES = 128
"""Room for a key in a row."""
HALF = 32
_HEX = re.compile(rf"[0-9a-f]{{{HALF}}}")
_KEY = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30}-[0-9a-f]{32}")
_LEFT_OVER = re.compile(rf"{_KEY.pattern}\.[0-9a-f]{{32}}\.tmp")


def token_key(id: str, digest: str) -> str:
    """The key of an item with that content: `ab/<id>-<hash of its content>`.

    A picture that changed gets another key, so that its old row stays readable until the new one is written; one that did not
    keeps its key, so that writing it again replaces the file by the same content.

    Args:
        id: of the row; 32 hex digits, or anything, which is then hashed.
        digest: of the row; of an ingested one the first half is the hash of the picture's content.
    """
    name = id if _HEX.fullmatch(id) else _hash(id)
    content = digest[:HALF] if _HEX.fullmatch(digest[:HALF]) else _hash(digest)
    return f"{name[:2]}/{name}-{content}"


def is_key(text: str) -> bool:
    """Whether `text` has the form of a key. Nothing else is ever opened: a row is data, and may name any path."""
    return _KEY.fullmatch(text) is not None


def belongs_to(key: str, id: str) -> bool:
    """Whether it is a key of that item. A row may name the file of another, which must not go with it."""
    return is_key(key) and key.rpartition("-")[0] == token_key(id, "").rpartition("-")[0]


def is_left_over(name: str) -> bool:
    """Whether it is the name of a file that a killed process was writing."""
    return _LEFT_OVER.fullmatch(name) is not None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:HALF]
