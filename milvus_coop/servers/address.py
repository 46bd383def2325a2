"""A model server that somebody else runs: its address `PROTOCOL+https://host/path?model=NAME`, and its key."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

from milvus_coop.certificates import check_certificates
from milvus_coop.config import PREFIX, Settings
from milvus_coop.errors import InvalidArgumentError, quoted

ServerName = Literal["reranker", "embedder"]
_KEY = re.compile("[!-~]*")
"""The keys that a header can hold."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and the way to reach it."""

    name: ServerName
    """The name of the setting that holds its address."""
    protocol: str
    url: str
    """The address of requests."""
    label: str
    """Protocol and host, as messages show them."""
    model: str = ""
    """Name of the model; '' if the server knows only one."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What the address says after its `?`."""
    key: str = field(default="", repr=False)
    """The key that each request carries; '' for none."""
    ca_file: str = ""
    """PEM file with the certificate authority; '' means the system's authorities."""

    @property
    def is_plain(self) -> bool:
        """True if requests are not encrypted."""
        return self.url.startswith("http://")

    @property
    def key_variable(self) -> str:
        """The environment variable of the key."""
        return f"{PREFIX}{self.name.upper()}_KEY"

    def number(self, option: str, default: int, maximum: int, minimum: int = 1) -> int:
        """An option that is a whole number.

        Raises:
            InvalidArgumentError: it is something else, or out of range.
        """
        text = self.options.get(option, str(default))
        if not text.isdecimal() or not text.isascii() or not minimum <= int(text[:9]) <= maximum:
            raise InvalidArgumentError(
                f"{option} of the {self.name} is {quoted(text)}", expected=f"a whole number from {minimum} to {maximum:,}"
            )
        return int(text)


def server_of(settings: Settings, name: ServerName, paths: Mapping[str, str], options: Sequence[str]) -> Server | None:
    """The server that the settings name; None if they name none.

    Args:
        settings: the settings.
        name: the server that is meant.
        paths: the protocols that it may speak, each with the path of its requests.
        options: the options that the address may have.

    Raises:
        InvalidArgumentError: the address, the key or the file of certificates cannot be used, or the key would travel in the clear.
            The message shows neither the key nor what may be a password.
    """
    address, key = getattr(settings, name), getattr(settings, f"{name}_key").strip()  # files often end with a line break
    model, ca_file = getattr(settings, f"{name}_model"), getattr(settings, f"{name}_ca_file")
    if not address:
        return None
    expected = f"PROTOCOL+https://host/path with PROTOCOL one of {', '.join(paths)}"
    protocol, parts = _split(address, name, paths, expected)
    found = _options(parts.query, name, options)
    if not _KEY.fullmatch(key):
        raise InvalidArgumentError(f"the {name}'s key has characters that no header can hold", expected="printable ASCII")
    server = Server(
        name,
        protocol,
        url=f"{parts.scheme}://{parts.netloc}{paths[protocol] if parts.path in ('', '/') else parts.path}",
        label=f"{protocol}+{parts.scheme}://{parts.netloc}",
        model=model or found.get("model", ""),
        options=found,
        key=key,
        ca_file=ca_file,
    )
    if server.is_plain and key and not is_loopback(parts.hostname or ""):
        raise InvalidArgumentError(
            f"the {name}'s key would travel in the clear to {parts.netloc}",
            expected=f"{protocol}+https://, or no {server.key_variable}",
        )
    if ca_file:
        check_certificates(Path(ca_file), f"{name}_ca_file")
    return server


def _split(address: str, name: ServerName, paths: Mapping[str, str], expected: str) -> tuple[str, SplitResult]:
    """The name of the protocol, and the parts of the URL."""
    if "@" in address.partition("?")[0]:
        raise InvalidArgumentError(
            f"{name} names a user, and perhaps a password", expected=expected, run=f"{PREFIX}{name.upper()}_KEY"
        )
    protocol, _, url = address.strip().partition("+")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        valid = False
    if protocol not in paths or not valid or not url.isprintable():
        raise InvalidArgumentError(f"{name} is {quoted(address.partition('?')[0])}", expected=expected)
    return protocol, parts


def _options(query: str, name: ServerName, allowed: Sequence[str]) -> Mapping[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if wrong := [option for option in options if option not in allowed]:
        raise InvalidArgumentError(
            f"the {name}'s address has the option {quoted(wrong[0])}",
            expected=" or ".join(allowed),
            run=f"{PREFIX}{name.upper()}_KEY for a key",
        )
    return options


def is_loopback(host: str) -> bool:
    """True if the host is this machine, by its address or its usual name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
