"""The address of a store: a Milvus Lite folder on this machine, or a Milvus server."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from milvus_coop.arguments import as_path
from milvus_coop.errors import InvalidArgumentError, quoted, shortened

EXPECTED = "a path such as ./milvus_coop.db (Milvus Lite), or http://host:19530, or https://host:443 (TLS)"
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:\d{1,5}")


@dataclass(frozen=True, slots=True)
class Address:
    """The parsed form of a `uri` argument. Its repr shows no password."""

    label: str
    """The address without credentials, for messages."""
    folder: Path | None
    """The Milvus Lite folder; None for a server."""
    endpoint: str = ""
    """`http[s]://host:port` of a server; '' for Milvus Lite."""
    database: str = ""
    """Name of the Milvus database, from the path of the address; '' means the default database."""
    token: str = field(default="", repr=False)
    """`user:password` or an API key, from the address or from an argument."""


def parse_address(uri: str | Path, *, token: str = "", user: str = "", password: str = "") -> Address:
    """Parse a `uri` argument and its credentials.

    Raises:
        InvalidArgumentError: the argument is neither a path nor an http(s) address. The message shows no credentials.
    """
    text = str(uri).strip()
    if not token and (user or password):
        token = f"{user}:{password}"
    if isinstance(uri, str) and "://" in text:
        return _parse_server(text, token)
    if isinstance(uri, str) and (_HOST_AND_PORT.fullmatch(text) or text.startswith("unix:")):
        raise InvalidArgumentError(f"{quoted(text)} is not a Milvus address", expected=EXPECTED)
    if not text or "\0" in text:
        raise InvalidArgumentError("the Milvus address is empty or not a path", expected=EXPECTED)
    folder = as_path("the Milvus address", text).expanduser().absolute()
    return Address(label=text, folder=folder)


def _parse_server(text: str, token: str) -> Address:
    scheme = text.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise InvalidArgumentError(f"a Milvus address cannot start with {shortened(scheme)}://", expected=EXPECTED)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidArgumentError("the Milvus address has no valid host and port", expected=EXPECTED) from exc
    if not host:
        raise InvalidArgumentError("the Milvus address names no host", expected=EXPECTED)
    if not token and parts.username:
        token = ":".join(unquote(part) for part in (parts.username, parts.password) if part)
    host = f"[{host}]" if ":" in host else host
    endpoint = f"{scheme}://{host}:{port or (443 if scheme == 'https' else 19530)}"
    database = parts.path.strip("/").partition("/")[0]
    label = f"{endpoint}/{database}" if database else endpoint
    return Address(label=label, folder=None, endpoint=endpoint, database=database, token=token)
