"""An S3 store of this machine: moto's server, in a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

START_TIMEOUT_S = 60.0
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def running() -> Iterator[str]:
    """The address of a server that runs until the end of the block."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 store, which the variables of the process name for s3fs. Skips where s3fs or moto is missing."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with running() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        yield address


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
