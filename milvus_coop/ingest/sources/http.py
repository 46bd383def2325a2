"""Files at http:// and https:// addresses: fetched as a whole, limited in size and time, and never from a private address."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote, urljoin

from milvus_coop.servers.http import Address, ask, is_public

LIMIT_BYTES = 64 * 2**20
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Web:
    """Fetches files."""

    is_allowed: Callable[[Address], bool] = is_public
    """Decides about each address before a connection goes there."""
    limit_bytes: int = LIMIT_BYTES
    limit_s: float = LIMIT_S

    def fetch(self, url: str) -> bytes:
        """The content of a file. Up to ten redirects are followed.

        Raises:
            OSError: the file cannot be fetched, is too large, takes too long, or is at an address that is not allowed.
        """
        return ask(url, limit_bytes=self.limit_bytes, limit_s=self.limit_s, is_allowed=self.is_allowed, redirects=True).content


@dataclass(frozen=True, slots=True)
class HttpFile:
    """A file at an http:// or https:// address. Only its content shows whether it changed, so each run fetches it."""

    name: str
    web: Web

    @property
    def image(self) -> HttpFile:
        """This file."""
        return self

    def version(self) -> None:
        """There is none."""

    def open(self) -> IO[bytes]:
        """The file, fetched as a whole."""
        return io.BytesIO(self.web.fetch(self.name))

    def stream(self) -> IO[bytes]:
        """The file, fetched as a whole."""
        return self.open()

    def beside(self, path: str) -> HttpFile:
        """The file with that path, relative to this one."""
        return HttpFile(urljoin(self.name, quote(path)), self.web)


def is_http(address: str) -> bool:
    """True if the address begins with http:// or https://."""
    return address[:8].lower().startswith(("http://", "https://"))
