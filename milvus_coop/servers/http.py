"""HTTP requests: answered within limits of size and time, and only by addresses that are allowed.

A name is resolved once, each of its addresses is checked, and the connection goes to a checked address. So a name that changes its
address between check and connection gains nothing, and each redirect is checked in the same way. No proxy is used, because a proxy
resolves names itself.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

WAIT_S = 10.0
"""Time limit of each connection, and of each pause of a server."""
CHUNK_BYTES = 1 << 16
LONGEST_REASON = 300
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """True if the address is a public one. Addresses that wrap another one (mapped, NAT64, 6to4, Teredo) are not."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address.sixtofour or address.teredo or address in NAT64
    ):
        return False
    return address.is_global and not address.is_multicast


def is_any(address: Address) -> bool:
    """True for every address: the user named the server."""
    return True


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a server."""

    status: int
    headers: Mapping[str, str]
    """The headers by name, in small letters."""
    content: bytes


class LateError(TimeoutError):
    """A server did not answer in time."""


class NoAnswerError(ConnectionError):
    """The connection was refused or lost before there was any answer."""


def ask(
    url: str,
    *,
    limit_bytes: int,
    limit_s: float,
    wait_s: float = WAIT_S,
    is_allowed: Callable[[Address], bool] = is_any,
    redirects: bool = False,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request, and read the whole answer, whatever its status; but see `redirects`.

    Args:
        url: the address, http:// or https://.
        limit_bytes: maximum size of the answer.
        limit_s: time limit of the whole request.
        wait_s: time limit of each connection, and of each pause of the server.
        is_allowed: decides about each address before a connection goes there.
        redirects: follow up to ten redirects. An answer that is none and has another status than 2xx is then an error.
        body: the body of a POST; None means GET.
        headers: more headers.
        tls: how to check certificates; None means with the authorities of the system.

    Raises:
        LateError: the server took too long.
        NoAnswerError: the connection was refused or lost before there was any answer.
        OSError: the answer is too large or is cut off, the address is not allowed, or the certificate is not valid.
    """
    with _Connections(limit_s, is_allowed) as connections:
        opened = False
        try:
            request = urllib.request.Request(_plain(url), body, dict(headers or {}))  # noqa: S310 - other schemes have no handler
            with _opener(connections, tls, redirects=redirects).open(request, timeout=min(wait_s, limit_s)) as answer:
                opened = True
                content = _content(answer, limit_bytes, connections.end_s)
                if connections.are_overdue:  # an answer without a length looks complete when the connection ends
                    raise OSError("cut off")
                return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, content)
        except HTTPError as exc:
            exc.close()
            raise OSError(f"the server answers {exc.code} {exc.reason}") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            reason = exc.reason if isinstance(exc, URLError) else exc
            if connections.are_overdue or isinstance(reason, TimeoutError):
                raise LateError(f"it takes more than {limit_s if connections.are_overdue else min(wait_s, limit_s):g} s") from exc
            said = " ".join(str(reason).split())[:LONGEST_REASON] or type(reason).__name__
            raise (NoAnswerError if isinstance(reason, ConnectionError) and not opened else OSError)(said) from exc


class _Connections:
    """The connections of one request. They go to allowed addresses, and are hung up at the time limit of the request.

    A server that sends a byte now and then never runs into the time limit of a pause.
    """

    def __init__(self, limit_s: float, is_allowed: Callable[[Address], bool]) -> None:
        self.end_s = time.monotonic() + limit_s
        """The moment at which they are hung up, on the clock of `time.monotonic`."""
        self.are_overdue = False
        """True if they were hung up."""
        self._is_allowed = is_allowed
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(limit_s, self._hang_up)
        self._timer.daemon = True

    def __enter__(self) -> _Connections:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        for sock in self._sockets:
            sock.close()

    def _hang_up(self) -> None:
        self.are_overdue = True
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def add(self, sock: socket.socket) -> None:
        """Hang this one up too."""
        self._sockets.append(sock)

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connection to one of the host's addresses.

        Raises:
            OSError: one of the addresses is not allowed, or none can be reached in time.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, place in found:
            address = ipaddress.ip_address(str(place[0]).partition("%")[0])
            if not self._is_allowed(address):
                fault = "not public" if self._is_allowed is is_public else "not allowed"
                raise OSError(f"{host} has the address {address}, which is {fault}")
        problem: OSError | None = None
        for family, kind, protocol, _, place in found:
            if (rest_s := self.end_s - time.monotonic()) <= 0:
                raise TimeoutError
            sock = socket.socket(family, kind, protocol)
            self.add(sock)
            sock.settimeout(min(timeout, rest_s))
            try:
                sock.connect(place)
                return sock
            except OSError as exc:
                problem = exc
                sock.close()
        raise problem or OSError(f"{host} has no address")


def _opener(connections: _Connections, tls: ssl.SSLContext | None, *, redirects: bool) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    opener.add_handler(_Handler(connections, tls))
    opener.add_handler(urllib.request.UnknownHandler())
    if redirects:
        for kind in (urllib.request.HTTPRedirectHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor):
            opener.add_handler(kind())
    opener.addheaders = [("User-Agent", "milvus-coop"), ("Accept-Encoding", "identity")]
    return opener


def _content(answer: Any, limit_bytes: int, end_s: float) -> bytes:
    content = bytearray()
    while chunk := answer.read1(CHUNK_BYTES):
        content += chunk
        if len(content) > limit_bytes:
            raise OSError(f"it has more than {limit_bytes:,} bytes")
        if time.monotonic() > end_s:
            raise TimeoutError
    if answer.length:
        raise OSError(f"{answer.length:,} bytes are missing at its end")
    return bytes(content)


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


class _Plain(http.client.HTTPConnection):
    def __init__(self, host: str, *, connections: _Connections, tls: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._connections = connections
        self._tls = tls
        self._wait_s = timeout

    def connect(self) -> None:
        self.sock = self._connections.dial(self.host, self.port, self._wait_s)


class _Tls(_Plain):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        context = self._tls or ssl.create_default_context()
        # The new socket takes the place of the old one before the handshake, so that hanging up ends the handshake too.
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self._connections.add(self.sock)
        self.sock.do_handshake()


class _Handler(urllib.request.AbstractHTTPHandler):
    def __init__(self, connections: _Connections, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._options: dict[str, Any] = {"connections": connections, "tls": tls}

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Plain, request, **self._options)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Tls, request, **self._options)  # type: ignore[arg-type]

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_
