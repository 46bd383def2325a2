"""Keys: the names of token files. A row stores the key of its file, and only files with such names are opened."""

from __future__ import annotations

import hashlib
import re

KEY_BYTES = 128
"""Size of the field for a key in a row, in bytes."""
HALF = 32
_HEX = re.compile(rf"[0-9a-f]{{{HALF}}}")
_KEY = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30}-[0-9a-f]{32}")
_LEFT_OVER = re.compile(rf"{_KEY.pattern}\.[0-9a-f]{{32}}\.tmp")


def token_key(id: str, digest: str) -> str:
    """The key of an item with that content: `ab/<id>-<hash of its content>`.

    An image that changed gets another key, so that its old row stays readable until the new row is written. An unchanged image
    keeps its key, so that writing it again replaces the file with the same content.

    Args:
        id: id of the row. It is hashed if it is not 32 hex digits.
        digest: digest of the row. In rows that were ingested, its first half is the hash of the image's content.
    """
    name = id if _HEX.fullmatch(id) else _hash(id)
    content = digest[:HALF] if _HEX.fullmatch(digest[:HALF]) else _hash(digest)
    return f"{name[:2]}/{name}-{content}"


def is_key(text: str) -> bool:
    """True if `text` has the form of a key. Nothing else is opened, because a row is data and could name any path."""
    return _KEY.fullmatch(text) is not None


def belongs_to(key: str, id: str) -> bool:
    """True if `key` belongs to that item. A row could name the file of another item, which must not be removed with the row."""
    return is_key(key) and key.rpartition("-")[0] == token_key(id, "").rpartition("-")[0]


def is_left_over(name: str) -> bool:
    """True if `name` is the name of an unfinished file of a process that was killed."""
    return _LEFT_OVER.fullmatch(name) is not None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:HALF]
