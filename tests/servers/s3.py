"""An S3 store of this machine: moto's server, in a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import TracebackType

import pytest

START_TIMEOUT_S = 60.0
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class S3Server:
    """An S3 store, which keeps its objects in memory; `with S3Server() as server: ... server.address`."""

    def __init__(self) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port = int(sock.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name the server and its keys for s3fs."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.address}

    def start(self) -> None:
        """Start the server, without objects, and wait until it answers."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1.0).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Make the server hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 store, which the variables of the process name for s3fs. Skips where s3fs or moto is missing."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server.address


def bucket(name: str) -> str:
    """A new bucket with that name."""
    import s3fs

    system = s3fs.S3FileSystem()
    system.mkdir(name)
    return name


def put(address: str, content: bytes) -> None:
    """Write one object."""
    import s3fs

    s3fs.S3FileSystem().pipe_file(address, content)


def remove(address: str) -> None:
    """Remove one object."""
    import s3fs

    s3fs.S3FileSystem().rm_file(address)
