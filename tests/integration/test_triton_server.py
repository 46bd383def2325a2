"""`TritonServer` and the ways into a guarded server: TLS, client certificates, restricted protocols."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc

from milvus_coop.bundle import TEXT_ENCODER, load_bundle
from milvus_coop.config import Settings
from milvus_coop.errors import BackendUnavailableError, InvalidArgumentError, MilvusCoopError, TritonError
from milvus_coop.models.backends import Backend, open_backend
from milvus_coop.serving.triton import Endpoints, TritonServer, Tuning, export_repository, find_triton
from milvus_coop.serving.triton.server import WATCH_S
from tests.servers.milvus import free_ports
from tests.servers.triton import TritonForTests
from tests.waiting import wait_until

pytestmark = pytest.mark.triton

SHARED_MEMORY = Path("/dev/shm")
LONG_S = 60.0
"""The limit of a client's calls: a refusal must come long before it."""


def processes_of(server: TritonServer) -> list[psutil.Process]:
    """Triton and the processes of its Python backend."""
    assert server.pid is not None
    parent = psutil.Process(server.pid)
    return [parent, *parent.children(recursive=True)]


def is_gone(process: psutil.Process) -> bool:
    """Ended; whether a zombie of it is left depends on the machine's first process."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def shared_memory() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()}


def logs() -> set[Path]:
    return set(Path(os.environ.get("TMPDIR", "/tmp")).glob("milvus-coop-triton-*.log"))


def open_client(uri: str, **settings: str) -> Backend:
    return open_backend(Settings(models=uri, timeout_s=LONG_S, **settings), load_bundle("coop-small"))  # type: ignore[arg-type]


def encode(backend: Backend) -> None:
    ids = np.ones((1, 8), dtype=np.int64)
    backend.run(TEXT_ENCODER, {"input_ids": ids, "attention_mask": ids})


def failure(action: Callable[[], object], within_s: float = LONG_S / 2) -> MilvusCoopError:
    """The error that it ends with, in time."""
    start = time.monotonic()
    with pytest.raises(MilvusCoopError) as caught:
        action()
    assert time.monotonic() - start < within_s
    return caught.value


@pytest.mark.parametrize("how", ["asked to", "killed"])
def test_nothing_is_left_of_a_stopped_server(tmp_path: Path, how: str) -> None:
    before, before_logs = shared_memory(), logs()
    server = TritonForTests(tmp_path)
    with server:
        processes = processes_of(server)
        assert len(processes) == 1 + 3 * Tuning().instances
        assert shared_memory() > before
        if how == "killed":
            os.kill(processes[0].pid, signal.SIGKILL)
    assert server.pid is None
    wait_until(lambda: all(map(is_gone, processes)))
    assert shared_memory() <= before
    assert logs() <= before_logs
    server.stop()  # twice is fine


def test_a_model_that_lost_its_process_ends_the_server(tmp_path: Path) -> None:
    """Triton would go on and call the model ready, in a pod for ever."""
    with TritonForTests(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.wait)
        time.sleep(2 * WATCH_S)  # it watches, and finds nothing
        assert not waiting.done()
        stub = next(process for process in processes_of(server)[1:] if any(TEXT_ENCODER in part for part in process.cmdline()))
        stub.kill()
        assert server.is_ready(TEXT_ENCODER)
        with pytest.raises(TritonError, match="a process that runs a model has ended"):
            waiting.result(60)


def test_models_that_are_unloaded_end_nothing(tmp_path: Path) -> None:
    server = TritonForTests(tmp_path, arguments=["--model-control-mode=explicit", "--load-model=*"])
    with server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.wait)
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.endpoints.grpc}")
        client.unload_model(TEXT_ENCODER)
        client.close()
        time.sleep(2 * WATCH_S)
        assert not waiting.done()
        os.kill(server.pid or 0, signal.SIGTERM)
        assert waiting.result(60) == 0


def test_a_proxy_of_the_machine_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)  # nobody listens there
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = TritonForTests(tmp_path)
    with server:
        backend = open_client(server.uri)
        encode(backend)
        backend.close()
        os.kill(server.pid or 0, signal.SIGKILL)  # quicker than to ask


@pytest.mark.parametrize("which", ["grpc", "http", "metrics"])
def test_a_port_in_use_is_named(tmp_path: Path, which: str) -> None:
    server = TritonForTests(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(server.endpoints, which)))
        taken.listen()
        with pytest.raises(TritonError, match=rf"port {getattr(server.endpoints, which)} on 127\.0\.0\.1 cannot be used: Address"):
            server.start()
    assert server.pid is None


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("cross_encoder/1/model.py", "import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
        ("text_encoder/1/text_encoder.onnx", "this is no graph", "text_encoder.onnx failed"),
        ("image_encoder/config.pbtxt", 'name: "image_encoder"\nmax_batches: 3\n', 'has no field named "max_batches"'),
    ],
)
def test_a_broken_repository_fails_with_tritons_reason(tmp_path: Path, file: str, content: str, reason: str) -> None:
    server = TritonForTests(tmp_path)
    (server.repository / file).unlink()  # a link to the bundle's file
    (server.repository / file).write_text(content, encoding="utf-8")
    with pytest.raises(TritonError, match="Triton stopped while starting: ") as caught:
        server.start()
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert server.pid is None
    load_bundle("coop-small").verify()


def test_a_backend_that_is_not_there(tmp_path: Path) -> None:
    """The wheel has no such backend; Triton gets as far as reading the configurations, so these are valid."""
    grpc, http, metrics = free_ports(3)
    repository = export_repository(load_bundle("coop-small"), tmp_path, "onnxruntime")
    server = TritonServer(find_triton(), repository, endpoints=Endpoints(grpc=grpc, http=http, metrics=metrics))
    with pytest.raises(TritonError, match="unable to find backend library for backend 'onnxruntime'"):
        server.start()


def test_a_start_that_takes_too_long(tmp_path: Path) -> None:
    grpc, http, metrics = free_ports(3)
    repository = export_repository(load_bundle("coop-small"), tmp_path, "python")
    endpoints = Endpoints(grpc=grpc, http=http, metrics=metrics)
    server = TritonServer(find_triton(), repository, endpoints=endpoints, start_timeout_s=0.01)
    with pytest.raises(TritonError, match=r"not ready after 0\.01 s"):
        server.start()
    assert server.pid is None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority (ca), a server (localhost) and a client signed by it, and another authority that nobody trusts (other)."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    new_key = ["-newkey", "rsa:2048", "-nodes"]
    for name in ("ca", "other"):
        run("req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")
    (folder / "names.txt").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n", encoding="utf-8")
    for name in ("server", "client"):
        run("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names.txt"]
        run("x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.pem", "-days", "2")
    return folder


class GuardedTriton(TritonForTests):
    """A server behind TLS, of which all but inference and health is restricted."""

    is_mutual = False


@pytest.fixture(scope="module", params=["tls", "mutual"])
def guarded(
    request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedTriton]:
    arguments = [
        "--grpc-use-ssl=true" if request.param == "tls" else "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificates / 'server.pem'}",
        f"--grpc-server-key={certificates / 'server.key'}",
        f"--grpc-root-cert={certificates / 'ca.pem'}",
        "--grpc-restricted-protocol=shared-memory,model-config,model-repository,statistics,trace,logging:admin-key=s3cret",
    ]
    server = GuardedTriton(tmp_path_factory.mktemp("guarded"), arguments=arguments)
    server.is_mutual = request.param == "mutual"
    with server:
        yield server


def test_a_guarded_server(guarded: GuardedTriton, certificates: Path) -> None:
    uri = guarded.uri.replace("triton://127.0.0.1", "tritons://127.0.0.1")
    trust = {"triton_ca_file": str(certificates / "ca.pem")}
    me = {"triton_cert_file": str(certificates / "client.pem"), "triton_key_file": str(certificates / "client.key")}
    header = {"triton_headers": "triton-grpc-protocol-admin-key=s3cret"}
    right = {**trust, **header, **(me if guarded.is_mutual else {})}

    backend = open_client(uri, **right)
    encode(backend)
    backend.load([TEXT_ENCODER])
    backend.close()

    wrong: dict[str, tuple[str, dict[str, str], str]] = {
        "no header": (uri, {**right, "triton_headers": ""}, "restricted.*MILVUS_COOP_TRITON_HEADERS"),
        "wrong header": (uri, {**right, "triton_headers": "triton-grpc-protocol-admin-key=wr0ng"}, "restricted"),
        "unknown signer": (uri, {**right, "triton_ca_file": str(certificates / "other.pem")}, "CERTIFICATE_VERIFY_FAILED"),
        "system's signers": (uri, {k: v for k, v in right.items() if k != "triton_ca_file"}, "CERTIFICATE_VERIFY_FAILED"),
        "no TLS": (guarded.uri, header, "cannot be reached"),
    }
    if guarded.is_mutual:
        wrong["no client certificate"] = (uri, {**trust, **header}, "cannot be reached")
    for name, (address, settings, says) in wrong.items():
        backend = open_client(address, **settings)
        error = failure(lambda b=backend: encode(b))  # type: ignore[misc]
        backend.close()
        assert isinstance(error, BackendUnavailableError), name
        assert "wr0ng" not in f"{error} {error!r}"
        assert "s3cret" not in f"{error} {error!r}"
        with pytest.raises(BackendUnavailableError, match=says):
            raise error


def test_a_tls_file_that_is_no_certificate(tmp_path: Path, certificates: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate", encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match=r"broken\.pem, which holds no certificate"):
        open_client("tritons://localhost:1", triton_ca_file=str(broken))
    with pytest.raises(InvalidArgumentError, match="belong together"):
        open_client("tritons://localhost:1", triton_cert_file=str(certificates / "client.pem"))
