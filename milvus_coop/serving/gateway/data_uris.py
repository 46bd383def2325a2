"""Images in JSON: as base64, or as a data URI (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated
from urllib.parse import unquote, unquote_to_bytes

from pydantic import BeforeValidator, WithJsonSchema

from milvus_coop.errors import InvalidArgumentError

EXPECTED = "data:image/jpeg;base64,..."
SHOWN = 64
"""Maximum number of characters of a media type that an error repeats."""
LONGEST_HEAD = 1024
"""Maximum number of characters before the comma of a data URI."""

_KINDS = "image|video|audio|text|application|font|model|multipart|message"
_DATA_URI = re.compile(rf"[\s\ufeff]*data:(?:[\w.+*-]*\s*[;,/]|\s*[;,]|\s*(?:{_KINDS})\s*/|[^,]{{0,200}};\s*base64)", re.IGNORECASE)
_ANY_TYPE = ("", "application/octet-stream")
_BLANK = re.compile(rb"\s+")


def is_data_uri(text: str) -> bool:
    """True if a text is meant as a data URI, however it is written. A sentence such as `Data: a chart` is not."""
    head = text[:LONGEST_HEAD]
    return _DATA_URI.match(unquote(head) if "%3a" in head[:16].lower() else head) is not None


def image_in(uri: str) -> bytes:
    """The bytes of the image in a data URI: base64 or percent-encoded, with any parameters, in any case.

    Raises:
        InvalidArgumentError: the URI has another media type, or its data cannot be decoded.
    """
    head, comma, data = uri.partition(",")
    if not comma:
        raise InvalidArgumentError("the data URI has no comma before its data", expected=EXPECTED)
    kind, *parameters = unquote(head[:LONGEST_HEAD]).strip(" \t\r\n\ufeff").partition(":")[2].split(";")
    kind = re.sub(r"\s", "", kind).lower()
    if not kind.startswith("image/") and kind not in _ANY_TYPE:
        raise InvalidArgumentError(f"the data URI holds {kind[:SHOWN]!r}", expected=EXPECTED)
    content = unquote_to_bytes(data)
    if any(parameter.strip().lower() == "base64" for parameter in parameters):
        content = from_base64(content)
    if not content:
        raise InvalidArgumentError("the data URI is empty", expected=EXPECTED)
    return content


def from_base64(text: bytes) -> bytes:
    """The bytes behind base64. Line breaks and missing padding are accepted, as in browsers.

    Raises:
        InvalidArgumentError: it is not base64.
    """
    compact = _BLANK.sub(b"", text).rstrip(b"=")
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgumentError("the image is not base64", expected=f"base64, or {EXPECTED}") from exc


def _image(value: object) -> object:
    if not isinstance(value, str):
        return value
    return image_in(value) if is_data_uri(value) else from_base64(value.encode(errors="replace"))


ImageBytes = Annotated[bytes, BeforeValidator(_image), WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
"""A field of a request: the bytes of an image file, which the client sends as base64 or as a data URI."""
