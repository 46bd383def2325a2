"""Access control: API keys, and checks of the Host and Origin headers."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.problems import RefusedError

WATCHED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths for monitoring, such as the probes of Kubernetes. Probes use an IP address, so the Host header is not checked here."""
OPEN_PATHS = WATCHED | {"/", "/openapi.json"}
OPEN_BELOW = "/gallery/"
"""The page's files are open, because they hold no data. The page fetches data with the key that its user enters."""


class Access:
    """Accepts or refuses a request by its path and headers."""

    def __init__(self, options: GatewayOptions) -> None:
        self._keys = tuple(key.encode() for key in options.api_keys)
        self._hosts = frozenset(host.lower() for host in options.hosts)
        self._origins = frozenset(options.cors_origins)

    def check(self, path: str, headers: Headers) -> None:
        """Check a request.

        Raises:
            RefusedError: the request does not name this host, comes from a page of another site, or has no valid key.
        """
        host = headers.get("host", "")
        if path not in WATCHED and "*" not in self._hosts and _name(host) not in self._hosts:
            raise RefusedError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the service does not go by the name in the Host header",
                expected=", ".join(sorted(self._hosts)),
                run="milvus-coop serve --allowed-host NAME",
            )
        self._check_origin(headers.get("origin", ""), host)
        if self._keys and path not in OPEN_PATHS and not path.startswith(OPEN_BELOW):
            self._check_key(headers.get("authorization", ""))

    def _check_origin(self, origin: str, host: str) -> None:
        # A page of any site may send simple requests to localhost. The browser hides the answer, but the request would be executed.
        if origin and origin not in self._origins and _host_of(origin) != host:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "the request comes from a page of another site",
                expected="a site that was named",
                run="milvus-coop serve --cors-origin SITE",
            )

    def _check_key(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        key = given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        if not any(matches):
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "the API key is wrong" if key else "the request has no API key",
                expected="the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as http://[
        return None


def _name(host: str) -> str:
    """A Host header without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
