"""A path prefix of the service, for a proxy that passes it on."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class PathPrefix:
    """ASGI middleware that takes a prefix off the paths of requests. Paths without it, such as those of probes, stay."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = scope.get("path", "")
        if path == self._prefix:
            # The page's links are relative, and so is this one: the proxy's scheme and host are not known here.
            await RedirectResponse(f"{self._prefix.rpartition('/')[2]}/")(scope, receive, send)
            return
        if path.startswith(f"{self._prefix}/"):
            scope = {**scope, "path": path.removeprefix(self._prefix)}
        await self._app(scope, receive, send)
