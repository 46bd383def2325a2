"""A TCP proxy that makes a network bad: it delays, holds back, cuts and swallows what goes through it. It also balances.

It stands for `tc netem`, which not every kernel has. A lost packet is a chunk that comes 200 ms later, as when TCP sends it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass

RETRANSMIT_S = 0.2
CHUNK = 64 * 1024


@dataclass(slots=True)
class Network:
    """How the network behaves now."""

    delay_s: float = 0.0
    """Added to each direction."""
    loss: float = 0.0
    """Share of the chunks that are lost once."""
    black_hole: bool = False
    """Whether nothing comes through, and nothing is refused."""
    cut: bool = False
    """Whether all connections are closed, and new ones are refused."""


class Proxy:
    """Listens on a port of 127.0.0.1 and passes everything on; `with Proxy(port) as proxy: proxy.port`."""

    def __init__(self, upstream: int, seed: int = 0) -> None:
        self.upstream = upstream
        """The port to which new connections go."""
        self.port = 0
        self.network = Network()
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="campaign-proxy", daemon=True)

    def set(self, network: Network) -> None:
        """Change the network, for connections that are open too."""
        self._do(self._set(network))

    def close_connections(self) -> None:
        """Close what is open, as a server behind a balancer does when it ends."""
        self._do(self._close_connections())

    async def _set(self, network: Network) -> None:
        self.network = network
        if network.cut:
            await self._close_connections()
            if self._server is not None:
                self._server.close()
                self._server = None
        elif self._server is None:
            await self._listen()

    async def _close_connections(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while self.network.black_hole:  # the kernel has accepted it already, so that it stays without an answer
                await asyncio.sleep(0.02)
            there = await asyncio.open_connection("127.0.0.1", self.upstream)
            try:
                await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
            finally:
                there[1].close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            with contextlib.suppress(RuntimeError):
                writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass chunks on in their order, each as late as the network makes it; a delay does not reduce the rate."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def receive() -> None:
            while True:
                chunk = await reader.read(CHUNK)
                lost = self._rng.random() < self.network.loss
                due = self._loop.time() + self.network.delay_s + RETRANSMIT_S * lost
                await queue.put((due, chunk))
                if not chunk:
                    return

        receiving = asyncio.create_task(receive())
        try:
            while True:
                due, chunk = await queue.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                while self.network.black_hole:
                    await asyncio.sleep(0.02)
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        finally:
            receiving.cancel()

    def _do(self, action: object) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result(10)  # type: ignore[arg-type]

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._do(self._set(Network(cut=True)))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
