"""Files at http:// and https:// addresses: fetched as a whole, limited in size and time, and never from a private address.

A name is resolved once, each of its addresses is checked, and the connection goes to a checked address. So a name that changes its
address between check and connection gains nothing, and each redirect is checked in the same way. No proxy is used, because a proxy
resolves names itself.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LIMIT_BYTES = 64 * 2**20
LIMIT_S = 60.0
WAIT_S = 10.0
"""Time limit of each connection, and of each pause of a server."""
CHUNK_BYTES = 1 << 16
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """True if the address is a public one. Addresses that wrap another one (mapped, NAT64, 6to4, Teredo) are not."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address.sixtofour or address.teredo or address in NAT64
    ):
        return False
    return address.is_global and not address.is_multicast


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
        dialled: list[socket.socket] = []
        overdue = threading.Event()

        def hang_up() -> None:  # a server that sends a byte now and then never runs into the time limit of a pause
            overdue.set()
            for sock in dialled:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

        timer = threading.Timer(self.limit_s, hang_up)
        timer.daemon = True
        timer.start()
        try:
            content = self._fetched(_plain(url), dialled, time.monotonic() + self.limit_s)
            if overdue.is_set():  # an answer without a length looks complete when the connection ends
                raise OSError("cut off")
            return content
        except HTTPError as exc:
            exc.close()
            raise OSError(f"the server answers {exc.code} {exc.reason}") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if overdue.is_set():
                raise OSError(f"it takes more than {self.limit_s:g} s") from exc
            reason = exc.reason if isinstance(exc, URLError) else exc
            raise OSError(" ".join(str(reason).split())[:300] or type(reason).__name__) from exc
        finally:
            timer.cancel()
            for sock in dialled:
                sock.close()

    def _fetched(self, url: str, dialled: list[socket.socket], deadline_s: float) -> bytes:
        dial = partial(_dial, is_allowed=self.is_allowed, dialled=dialled)
        opener = urllib.request.OpenerDirector()
        for handler in (
            _Handler(dial),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        opener.addheaders = [("User-Agent", "milvus-coop"), ("Accept-Encoding", "identity")]
        content = bytearray()
        with opener.open(url, timeout=WAIT_S) as answer:
            while chunk := answer.read1(CHUNK_BYTES):
                content += chunk
                if len(content) > self.limit_bytes:
                    raise OSError(f"it has more than {self.limit_bytes:,} bytes")
                if time.monotonic() > deadline_s:
                    raise OSError("it takes too long")
            if answer.length:
                raise OSError(f"{answer.length:,} bytes are missing at its end")
        return bytes(content)


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


def _plain(url: str) -> str:
    """The address as a request can name it.

    Raises:
        ValueError: it has no host, or holds a user's name or password.
    """
    parts = urlsplit(url)
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError("the address has a user's name" if "@" in parts.netloc else "the address has no host")
    host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    safe = "/%:=&?~#+!$,;'@()*[]"
    return parts._replace(netloc=host, path=quote(parts.path, safe), query=quote(parts.query, safe), fragment="").geturl()


def _dial(
    host: str, port: int, timeout: float, *, is_allowed: Callable[[Address], bool], dialled: list[socket.socket]
) -> socket.socket:
    """A connection to one of the host's addresses.

    Raises:
        OSError: one of the addresses is not allowed, or none can be reached.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        if not is_allowed(address):
            raise OSError(f"{host} has the address {address}, which is not public")
    problem: OSError | None = None
    for family, kind, protocol, _, place in found:
        sock = socket.socket(family, kind, protocol)
        dialled.append(sock)
        sock.settimeout(timeout)
        try:
            sock.connect(place)
            return sock
        except OSError as exc:
            problem = exc
            sock.close()
    raise problem or OSError(f"{host} has no address")


class _Plain(http.client.HTTPConnection):
    def __init__(self, host: str, *, dial: partial[socket.socket], timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial(self.host, self.port, self.timeout)


class _Tls(_Plain):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        # The new socket takes the place of the old one before the handshake, so that hanging up ends the handshake too.
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self._dial.keywords["dialled"].append(self.sock)
        self.sock.do_handshake()


class _Handler(urllib.request.AbstractHTTPHandler):
    def __init__(self, dial: partial[socket.socket]) -> None:
        super().__init__()
        self._dial = dial

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Plain, request, dial=self._dial)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Tls, request, dial=self._dial)  # type: ignore[arg-type]

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_
