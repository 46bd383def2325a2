"""The facts about one request: its id, its route, its answer. Its log line, its metrics and its span are made of them."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from milvus_coop.serving.gateway.problems import ErrorForm

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SHOWN_PATH = 256
"""Maximum number of characters of a path in the log."""
CLIENT_LEFT = 499
"""The status in metrics and logs of a request whose client left before the answer; nginx made this number common."""
NO_ROUTE = "none"


@dataclass(slots=True)
class Facts:
    """The facts about one request. `FrontDoor` makes them; routes find them with `facts_of` and add to them."""

    scope: Scope
    id: str = ""
    """The client's x-request-id if it is well formed, else a new id."""
    began_s: float = field(default_factory=time.perf_counter)
    status: int = 0
    """The status of the answer; 0 before the answer begins."""
    received: int = 0
    """Number of bytes of the body that have arrived."""
    sent: int = 0
    """Number of bytes of the answer's body that were sent."""
    error: str = ""
    """Name of the error that ended the request; '' if there was none."""
    form: ErrorForm | None = None
    """The form of this route's errors; None means the form that the path decides."""
    filter: str = ""
    """The filter of the caller's key, which limits all that the request may read; '' if there is none."""
    logged: dict[str, object] = field(default_factory=dict)
    """More facts for the log line, such as the collection."""

    def __post_init__(self) -> None:
        given = Headers(scope=self.scope).get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    @property
    def method(self) -> str:
        """The HTTP method."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """The path, shortened for the log."""
        return str(self.scope["path"])[:SHOWN_PATH]

    @property
    def route(self) -> str:
        """The path of the route with its parameters as names, such as `/v1/items/{id}/thumbnail`."""
        return str(getattr(self.scope.get("route"), "path", NO_ROUTE))

    @property
    def seconds(self) -> float:
        """Time since the request began."""
        return time.perf_counter() - self.began_s

    def client_left(self) -> None:
        """Note that the client left before the answer began."""
        self.status, self.error = CLIENT_LEFT, "ClientLeft"

    def line(self) -> dict[str, Any]:
        """The fields of the request's log line."""
        return {
            "request_id": self.id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "ms": round(1000 * self.seconds, 1),
            "bytes_in": self.received,
            "bytes_out": self.sent,
            **self.logged,
            "error": self.error or None,
        }


def facts_of(request: Request) -> Facts:
    """The facts about this request."""
    facts: Facts = request.scope["facts"]
    return facts
