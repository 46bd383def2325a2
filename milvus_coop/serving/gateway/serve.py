"""Runs the service until it is stopped."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import uvicorn

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.gateway.app import create_app
from milvus_coop.serving.gateway.connections import KEEP_ALIVE_S, ImpatientProtocol
from milvus_coop.serving.gateway.service import Service

BACKLOG = 2048


def serve(service: Service, *, on_ready: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM. Running requests are then finished within the options' `shutdown_s`.

    Args:
        service: the service to run; it is closed at the end.
        on_ready: a function that is called with the service's address when the service listens.

    Raises:
        InvalidArgumentError: the service cannot listen on the address.
    """
    options = service.options
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        listener = _listen(options.host, options.port)
    except OSError as exc:
        service.close()
        raise InvalidArgumentError(
            f"cannot listen on {host}:{options.port}: {exc.strerror}",
            expected="an address of this machine, such as 127.0.0.1 or ::1, and a free port",
            run="--port 0",
        ) from exc
    config = uvicorn.Config(
        create_app(service),
        http=ImpatientProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(options.shutdown_s)),
    )
    server = _Server(config, lambda: on_ready(f"http://{host}:{listener.getsockname()[1]}"))
    with contextlib.closing(listener), contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean shutdown
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that calls `on_ready` when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address of IPv4 or IPv6, or on the first address of a name; those of IPv4 come first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
