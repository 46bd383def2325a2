"""Uris of images: which ones name files of this machine. Nothing is fetched, because a row or a caller could name any server."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|(?:https?|ftps?|s3|gs|gcs|az|abfss?|hdfs|file|data):", re.IGNORECASE)
_SLASHES = re.compile(r"^([a-z0-9]{2,}):/(?!/)", re.IGNORECASE)


def is_url(text: str) -> bool:
    """True if a text is a URL, also if a Path has made `https:/host` of it."""
    return _URL.match(text) is not None


def with_slashes(text: str) -> str:
    """The text; `https://` in the place of the `https:/` that a Path makes of it."""
    return _SLASHES.sub(r"\1://", text)


def local_path(uri: str) -> Path | None:
    """The file on this machine that a uri names; None for any other uri.

    Absolute paths and file:// uris name files. Relative paths do not, because their base folder is unknown; nor does `//host/...`.
    """
    if "://" in uri:
        try:
            parts = urlsplit(uri)
        except ValueError:
            return None
        if parts.scheme.lower() != "file" or parts.netloc.lower() not in ("", "localhost"):
            return None
        uri = url2pathname(parts.path)
    if uri.startswith(("//", "\\\\")) or "\0" in uri:
        return None
    path = Path(uri)
    return path if path.is_absolute() else None
