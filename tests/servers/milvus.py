"""A real Milvus server for the contract tests: the PyPI wheel `milvus`, on free ports, in a temporary folder.

Facts it rests on (measured with milvus 2.3.5): it starts in 7 s (it unpacks 447 MB of libraries into its folder first) and takes
about 220 MB of memory; its embedded etcd binds 2379 and 2380 whatever `--etcd-port` says, unless a YAML named by
ETCD_CONFIG_PATH says otherwise; its command is a Python parent that SIGTERM stops without the real process, and that SIGINT
stops only where the shell does not ignore it. So the two are ended one by one.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from milvus_coop.errors import StoreError
from milvus_coop.store import Store

ROOT = "root:Milvus"
"""Whom a server with authorization knows from the start."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0

ETCD_YAML = """\
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""


def free_ports(n: int) -> list[int]:
    """`n` different TCP ports that nobody listens on right now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]


class MilvusServer:
    """One Milvus server process; `with MilvusServer() as server: ... server.uri`.

    Args:
        authorization: let in only who has a password; see `ROOT`.
        tls: folder with server.key and server.pem (for localhost), to be reached by https only.
    """

    def __init__(self, *, authorization: bool = False, tls: Path | None = None) -> None:
        self._authorization = authorization
        self._tls = tls
        self.folder = Path(tempfile.mkdtemp(prefix="milvus-server-"))
        self.port, self._etcd_port, self._etcd_peer_port = free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """What a client connects to."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def start(self) -> None:
        """Start the server, on its old data if it ran before, and wait until it answers."""
        etcd = self.folder / "etcd.yaml"
        etcd.write_text(ETCD_YAML.format(client=self._etcd_port, peer=self._etcd_peer_port))
        command = Path(sys.executable).with_name("milvus-server")
        arguments = [command, "--data", self.folder, "--proxy-port", self.port, "--etcd-port", self._etcd_port]
        if self._authorization:
            arguments += ["--authorization-enabled", "true"]
        if self._tls is not None:
            arguments += [
                "--tls-mode",
                1,
                "--server-pem-path",
                self._tls / "server.pem",
                "--server-key-path",
                self._tls / "server.key",
            ]
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [str(a) for a in arguments],
                env={**os.environ, "ETCD_CONFIG_PATH": str(etcd), "PYTHONWARNINGS": "ignore"},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self._wait_until_ready()

    def connect(self, *, timeout_s: float = 10.0) -> Store:
        """A store as its administrator."""
        ca_file = self._tls / "server.pem" if self._tls is not None else None
        return Store(self.uri, token=ROOT, ca_file=ca_file, timeout_s=timeout_s)

    def _wait_until_ready(self) -> None:
        """Its port listens a second before it lets anybody in."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(StoreError), self.connect() as store:
                store.list()
                return
            time.sleep(0.05)
        output = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"the Milvus server did not start within {START_TIMEOUT_S} s: {output}")

    def _real_process(self) -> psutil.Process:
        """The server itself: the wheel's command is a Python parent that starts it."""
        assert self._process is not None
        (child,) = psutil.Process(self._process.pid).children()
        return child

    def kill(self) -> None:
        """What a crash does: kill -9 to the server itself."""
        assert self._process is not None
        self._real_process().kill()
        self._process.kill()  # the parent would not notice
        self._process.wait(STOP_TIMEOUT_S)

    def freeze(self) -> None:
        """Make the server hang: it keeps its connections and answers nothing."""
        self._real_process().suspend()

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._real_process().resume()

    def stop(self) -> None:
        """End both processes. Not gently: that takes Milvus 20 s, and what it acknowledged survives anyway."""
        if self._process is None or self._process.poll() is not None:
            return
        children = psutil.Process(self._process.pid).children(recursive=True)
        for child in children:
            child.kill()
        self._process.kill()  # the parent would not notice
        self._process.wait(STOP_TIMEOUT_S)
        psutil.wait_procs(children, STOP_TIMEOUT_S)

    def __enter__(self) -> MilvusServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def milvus_server() -> Iterator[MilvusServer]:
    """One server for all tests that only use it. Tests mark themselves with `server`."""
    if sys.platform != "linux":
        pytest.skip("the Milvus server wheel runs on Linux only")
    with MilvusServer() as server:
        yield server


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.server)])
def store_uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a store can be: once on Milvus Lite, once on a server."""
    if request.param == "lite":
        return str(tmp_path_factory.mktemp("store") / "lite.db")
    server: MilvusServer = request.getfixturevalue("milvus_server")
    return server.uri


@pytest.fixture(scope="module")
def store(store_uri: str) -> Iterator[Store]:
    """An open store; the collections that a module makes in it are dropped after it."""
    with Store(store_uri, timeout_s=20) as store:
        before = {info.name for info in store.list()}
        yield store
        for info in store.list():
            if info.name not in before:
                store.drop(info.name)
