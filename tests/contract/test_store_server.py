"""What only a server can do to a client: refuse it, hang, die, and limit the size of a request."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from milvus_coop.deadline import Deadline
from milvus_coop.errors import MilvusCoopError, StoreAuthError, StoreError, StoreTimeoutError, StoreUnavailableError
from milvus_coop.store import Collection, Store
from milvus_coop.types import StoredText
from tests.contract.store_samples import SPEC, make_rows, unit_vectors
from tests.servers.milvus import ROOT, MilvusServer, free_ports

SOON_S = 8.0
"""How long an error may take that must come at once: less than any limit it must not wait for, and enough on a busy machine."""
LONG_S = 60.0
"""The limit of a call whose error must come at once."""


def failure(call: Callable[[], object], within_s: float = SOON_S) -> MilvusCoopError:
    """The error that `call` raises, in time."""
    start = time.monotonic()
    with pytest.raises(MilvusCoopError) as caught:
        call()
    assert time.monotonic() - start < within_s
    assert caught.value.__cause__ is not None
    return caught.value


def test_nobody_listens() -> None:
    (port,) = free_ports(1)
    for uri in (f"http://127.0.0.1:{port}", f"https://127.0.0.1:{port}", "http://no-such-host.invalid"):
        error = failure(partial(Store, uri, token="root:topsecret", timeout_s=LONG_S))
        assert isinstance(error, StoreUnavailableError)
        assert uri in str(error)
        assert "topsecret" not in f"{error!r} {error.__cause__!r} {error.__cause__}"


def test_somebody_listens_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        error = failure(lambda: Store(uri, timeout_s=0.5))
    assert isinstance(error, StoreUnavailableError)
    assert "within 0.5 s" in str(error)


@pytest.mark.server
def test_large_upserts_are_cut_and_too_large_questions_are_explained(milvus_server: MilvusServer) -> None:
    """A server refuses requests of 64 MiB and more; these rows take 70 MiB."""
    text = "x" * 65_000
    rows = [replace(row, content=StoredText(text)) for row in make_rows(1130)]
    with milvus_server.connect(timeout_s=LONG_S) as store:
        texts = store.create("contract_large", SPEC, "text")
        try:
            texts.upsert(rows)
            assert texts.count() == len(rows)
            huge = f"tag == '{'y' * 68_000_000}'"
            error = failure(lambda: texts.search(unit_vectors(1), 1, filter=huge), within_s=LONG_S / 2)
            assert type(error) is StoreError
            assert "larger message" in str(error)
            assert len(str(error)) < 2000
        finally:
            store.drop("contract_large")


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signs itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.pem", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([openssl, "req", *options, *names], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def guarded(tls_folder: Path) -> Iterator[MilvusServer]:
    """A server with passwords and TLS, that tests may freeze; the last test of this module kills it."""
    with MilvusServer(authorization=True, tls=tls_folder) as server:
        yield server


@pytest.fixture(scope="module")
def guarded_images(guarded: MilvusServer) -> Iterator[Collection]:
    with guarded.connect(timeout_s=LONG_S) as store:
        images = store.create("images", SPEC)
        images.upsert(make_rows(50))
        yield images


@pytest.mark.server
def test_passwords(guarded: MilvusServer, tls_folder: Path) -> None:
    pem = tls_folder / "server.pem"
    for right in (Store(guarded.uri, token=ROOT, ca_file=pem), Store(guarded.uri, user="root", password="Milvus", ca_file=pem)):
        with right:
            assert isinstance(right.list(), list)
            assert "Milvus:" not in repr(right)
    with Store(guarded.uri.replace("://", f"://{ROOT}@"), ca_file=pem) as in_the_address:
        assert ROOT not in repr(in_the_address)
    for token in ("root:wr0ngsecret", "nobody:wr0ngsecret", ""):
        error = failure(partial(Store, guarded.uri, token=token, ca_file=pem, timeout_s=LONG_S))
        assert isinstance(error, StoreAuthError)
        assert "wr0ngsecret" not in f"{error!r} {error}"


@pytest.mark.server
def test_tls(guarded: MilvusServer, tls_folder: Path) -> None:
    unknown_signer = failure(lambda: Store(guarded.uri, token=ROOT, timeout_s=LONG_S))
    assert isinstance(unknown_signer, StoreUnavailableError)
    assert "CERTIFICATE_VERIFY_FAILED" in str(unknown_signer)
    without = failure(lambda: Store(guarded.uri.replace("https", "http"), token=ROOT, timeout_s=LONG_S))
    assert isinstance(without, StoreUnavailableError)


@pytest.mark.server
def test_a_server_that_hangs(guarded: MilvusServer, guarded_images: Collection) -> None:
    """The limit of a call holds although its store allows more; the limit of a store holds for calls that name none."""
    with guarded.connect(timeout_s=3.0) as store, ThreadPoolExecutor(4) as pool:
        images = store.open("images", SPEC)
        guarded.freeze()
        try:
            assert isinstance(failure(lambda: guarded_images.search(unit_vectors(1), 5, timeout_s=0.2)), StoreTimeoutError)
            assert isinstance(failure(lambda: guarded_images.search(unit_vectors(1), 5, deadline=Deadline(0.2))), StoreTimeoutError)
            late = failure(lambda: guarded_images.candidates(["a"], unit_vectors(1)[0], deadline=Deadline(0.2)))
            assert isinstance(late, StoreTimeoutError)
            calls: list[Callable[[], object]] = [
                images.count,
                store.list,
                lambda: store.open("images"),
                lambda: store.create("new", SPEC),
            ]
            assert [type(error) for error in pool.map(failure, calls)] == [StoreTimeoutError] * 4
            assert isinstance(failure(lambda: guarded.connect(timeout_s=0.5)), StoreUnavailableError)
        finally:
            guarded.thaw()
    assert len(guarded_images.search(unit_vectors(1), 5)[0]) == 5


@pytest.mark.server
def test_a_server_that_dies(guarded: MilvusServer, guarded_images: Collection) -> None:
    """Every caller knows at once, also those in other threads. Recovery (36 s after kill -9) is too slow for this suite."""
    guarded.kill()

    def search(_: int) -> MilvusCoopError:
        return failure(lambda: guarded_images.search(unit_vectors(1), 5))

    with ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(search, range(8)))
    errors.append(failure(lambda: guarded_images.upsert(make_rows(1))))
    errors.append(failure(lambda: guarded.connect(timeout_s=LONG_S)))
    assert {type(e) for e in errors} == {StoreUnavailableError}
