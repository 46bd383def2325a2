"""The address of a rerank server, and what may be sent to it: `PROTOCOL+https://host/path?model=NAME`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import SplitResult, parse_qsl, urlsplit

from milvus_coop.certificates import check_certificates
from milvus_coop.config import PREFIX, Settings
from milvus_coop.elsewhere.objects import RemoteFile
from milvus_coop.elsewhere.roots import folders_of, prefixes_of
from milvus_coop.errors import InvalidArgumentError, quoted
from milvus_coop.search.remote.protocols import PROTOCOLS, RerankProtocol

Scale = Literal["probability", "logit"]
EXPECTED = f"PROTOCOL+https://host/path with PROTOCOL one of {', '.join(PROTOCOLS)}"
KEY = f"{PREFIX}RERANKER_KEY"
DOCUMENTS = 64
"""Default maximum of documents in one request."""
MAX_DOCUMENTS = 512
OPTIONS = ("model", "scores", "documents")
"""What an address may say after its `?`."""
_KEY = re.compile("[!-~]*")
"""The keys that a header can hold."""


@dataclass(frozen=True, slots=True)
class RerankServer:
    """A server, and what may be sent to it."""

    protocol: RerankProtocol
    url: str
    """The address of requests."""
    label: str
    """Protocol and host, as messages show them."""
    model: str = ""
    """Name of the model; '' if the server knows only one."""
    scale: Scale = "probability"
    """What the server's scores are."""
    documents: int = DOCUMENTS
    """Maximum number of documents in one request."""
    key: str = field(default="", repr=False)
    """The key that each request carries; '' for none."""
    ca_file: str = ""
    """PEM file with the certificate authority; '' means the system's authorities."""
    folders: Sequence[Path] = ()
    """Folders whose images may be sent, with symbolic links resolved."""
    prefixes: Sequence[RemoteFile] = ()
    """Prefixes of object stores whose images may be sent."""

    @property
    def is_plain(self) -> bool:
        """True if requests are not encrypted."""
        return self.url.startswith("http://")


def server_of(settings: Settings) -> RerankServer | None:
    """The server that the settings name; None if they name none.

    Raises:
        InvalidArgumentError: the address, the key, the file of certificates or a root cannot be used, or the key would travel in
            the clear. The message shows neither the key nor what may be a password.
        SourceError: the driver of a root is not installed.
    """
    if not settings.reranker:
        return None
    name, parts = _split(settings.reranker)
    options = _options(parts.query)
    key = settings.reranker_key.strip()  # files with secrets often end with a line break
    if not _KEY.fullmatch(key):
        raise InvalidArgumentError("the reranker's key has characters that no header can hold", expected="printable ASCII")
    if parts.scheme == "http" and key and not _is_loopback(parts.hostname or ""):
        raise InvalidArgumentError(
            f"the reranker's key would travel in the clear to {parts.netloc}", expected=f"{name}+https://, or no {KEY}"
        )
    if settings.reranker_ca_file:
        check_certificates(Path(settings.reranker_ca_file), "reranker_ca_file")
    protocol = PROTOCOLS[name]
    scale: Scale = options.get("scores", "logit" if protocol.has_logits else "probability")  # type: ignore[assignment]
    path = protocol.path if parts.path in ("", "/") else parts.path
    return RerankServer(
        protocol,
        url=f"{parts.scheme}://{parts.netloc}{path}",
        label=f"{name}+{parts.scheme}://{parts.netloc}",
        model=settings.reranker_model or options.get("model", ""),
        scale=scale,
        documents=int(options.get("documents", DOCUMENTS)),
        key=key,
        ca_file=settings.reranker_ca_file,
        folders=folders_of(settings.reranker_roots),
        prefixes=prefixes_of(settings.reranker_roots),
    )


def _split(address: str) -> tuple[str, SplitResult]:
    """The name of the protocol, and the parts of the URL."""
    if "@" in address.partition("?")[0]:
        raise InvalidArgumentError("reranker names a user, and perhaps a password", expected=EXPECTED, run=KEY)
    name, _, url = address.strip().partition("+")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        valid = False
    if name not in PROTOCOLS or not valid or not url.isprintable():
        raise InvalidArgumentError(f"reranker is {quoted(address.partition('?')[0])}", expected=EXPECTED)
    return name, parts


def _options(query: str) -> Mapping[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if wrong := [name for name in options if name not in OPTIONS]:
        raise InvalidArgumentError(
            f"the reranker's address has the option {quoted(wrong[0])}", expected=" or ".join(OPTIONS), run=f"{KEY} for a key"
        )
    scores, documents = options.get("scores", "logit"), options.get("documents", "1")
    if scores not in get_args(Scale):
        raise InvalidArgumentError(f"scores of the reranker is {quoted(scores)}", expected=" or ".join(get_args(Scale)))
    if not documents.isdecimal() or not documents.isascii() or not 1 <= int(documents[:9]) <= MAX_DOCUMENTS:
        raise InvalidArgumentError(
            f"documents of the reranker is {quoted(documents)}", expected=f"a whole number from 1 to {MAX_DOCUMENTS}"
        )
    return options


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
