"""Access control: API keys with their filters and rates, and checks of the Host and Origin headers."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable
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


class RateLimitedError(RefusedError):
    """A key was used for more requests than its rate allows."""


class Bucket:
    """A token bucket: `burst` requests at once, and `rate` requests per second in the long run. Only the event loop uses it."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._tokens, self._filled_s = float(burst), clock()

    def take(self) -> float:
        """Take a token. Returns 0, or the seconds until there is a token if there is none now."""
        now_s = self._clock()
        self._tokens = min(float(self.burst), self._tokens + self.rate * (now_s - self._filled_s))
        self._filled_s = now_s
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0


class Access:
    """Accepts or refuses a request by its path and headers."""

    def __init__(self, options: GatewayOptions) -> None:
        filters = options.filters()
        self._keys = {key.encode(): filters.get(key, "") for key in options.api_keys}
        rate, burst = options.rate_limit, options.burst
        # Without keys, all callers share one bucket. Behind a proxy, their addresses are the same as well.
        self._buckets = {key: Bucket(rate, burst) for key in self._keys or (b"",)} if rate else {}
        self._hosts = frozenset(host.lower() for host in options.hosts)
        self._origins = frozenset(options.cors_origins)

    def check(self, path: str, headers: Headers) -> str:
        """Check a request, and return the filter of its key, or '' if it has none.

        Raises:
            RateLimitedError: the key was used for too many requests.
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
        if path in OPEN_PATHS or path.startswith(OPEN_BELOW):
            return ""
        key = self._known(headers.get("authorization", "")) if self._keys else b""
        if (bucket := self._buckets.get(key)) and (wait_s := bucket.take()):
            raise RateLimitedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many requests came with this API key" if key else "too many requests came",
                expected=f"at most {bucket.rate:g} per second, and {bucket.burst} at once",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )
        return self._keys.get(key, "")

    def _check_origin(self, origin: str, host: str) -> None:
        # A page of any site may send simple requests to localhost. The browser hides the answer, but the request would be executed.
        if origin and origin not in self._origins and _host_of(origin) != host:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "the request comes from a page of another site",
                expected="a site that was named",
                run="milvus-coop serve --cors-origin SITE",
            )

    def _known(self, authorization: str) -> bytes:
        """The key that the header has, if it is a valid one."""
        scheme, _, given = authorization.partition(" ")
        key = given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        matches = [known for known in self._keys if hmac.compare_digest(key, known)]
        if not matches:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "the API key is wrong" if key else "the request has no API key",
                expected="the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return matches[0]


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
