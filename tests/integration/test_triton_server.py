"""`TritonServer` and the ways into a guarded server: TLS, client certificates, restricted protocols."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
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
from milvus_coop.serving.triton.config import model_config
from milvus_coop.serving.triton.server import WATCH_S
from tests.servers.milvus import free_ports
from tests.servers.triton import TritonForTests
from tests.waiting import is_gone, wait_until

pytestmark = pytest.mark.triton

SHARED_MEMORY = Path("/dev/shm")
LONG_S = 60.0
"""The limit of a client's calls: a refusal must come long before it."""


def processes_of(server: TritonServer) -> list[psutil.Process]:
    """Triton and the processes of its Python backend."""
    assert server.pid is not None
    parent = psutil.Process(server.pid)
    return [parent, *parent.children(recursive=True)]


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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_command_that_was_ended(tmp_path: Path, how: signal.Signals) -> None:
    grpc, http, metrics = map(str, free_ports(3))
    ports = ["--port", grpc, "--http-port", http, "--metrics-port", metrics]
    command = [sys.executable, "-m", "milvus_coop", "triton", "serve", *ports]
    before = shared_memory()
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}, text=True) as process:
        assert process.stderr is not None
        assert "Triton is ready" in process.stderr.readline()
        processes = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        assert len(processes) == 2 + 3 * Tuning().instances  # the server, its guard and the models
        wait_until(lambda: all(map(is_gone, processes)))
    assert shared_memory() <= before


@pytest.mark.parametrize("_turn", range(5))
def test_a_command_that_is_killed_while_it_starts_leaves_nothing(tmp_path: Path, _turn: int) -> None:
    repository = export_repository(load_bundle("coop-small"), tmp_path / "models", "python")
    (script,) = (repository / TEXT_ENCODER).glob("*/model.py")
    script.unlink()
    script.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    grpc, http, metrics = map(str, free_ports(3))
    ports = ["--port", grpc, "--http-port", http, "--metrics-port", metrics]
    command = [sys.executable, "-m", "milvus_coop", "triton", "serve", "--repository", str(repository), *ports]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)}) as process:
        started = psutil.Process(process.pid)
        wait_until(lambda: len(started.children(recursive=True)) > 1)
        processes = started.children(recursive=True)
        process.kill()
        wait_until(lambda: all(map(is_gone, processes)))
        wait_until(lambda: not list(tmp_path.glob("milvus-coop-triton-*.log")))


def test_a_bundle_of_any_name_is_served(tmp_path: Path) -> None:
    server = TritonForTests(tmp_path)
    spec = dataclasses.replace(load_bundle("coop-small").spec, name='Tom\'s "best" \\ model\n} ü')
    for graph in spec.graphs:
        text = model_config(spec, graph, "python", Tuning())
        server.folder_of(graph.name).rename(server.repository / graph.name / str(spec.served_version))
        (server.repository / graph.name / "config.pbtxt").write_text(text, encoding="utf-8")
    with server, tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.endpoints.grpc}") as client:
        config = client.get_model_config(TEXT_ENCODER).config
    assert config.parameters["bundle"].string_value == spec.label


@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6(tmp_path: Path, host: str) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with TritonForTests(tmp_path, host=host) as server:
        assert server.uri.startswith(f"triton://[{host}]:")
        backend = open_client(server.uri.replace("[::]", "[::1]"))
        encode(backend)
        backend.close()
        for port in (server.endpoints.http, server.endpoints.metrics):
            socket.create_connection(("::1", port), timeout=5).close()


def test_it_listens_on_the_address_of_a_name(tmp_path: Path) -> None:
    with TritonForTests(tmp_path, host="localhost") as server:
        backend = open_client(server.uri)
        encode(backend)
        backend.close()


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("no-such-host.invalid", "the host 'no-such-host.invalid' has no address; expected: an IP address, or a name"),
        ("", "the host '' has no address"),
        ("192.0.2.1", r"port \d+ on 192\.0\.2\.1 cannot be used: Cannot assign requested address"),
    ],
)
def test_a_host_that_is_not_this_machine(tmp_path: Path, host: str, says: str) -> None:
    with pytest.raises(TritonError, match=says):
        TritonForTests(tmp_path, host=host).start()


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
        ("cross_encoder/*/model.py", "import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
        ("text_encoder/*/text_encoder.onnx", "this is no graph", "text_encoder.onnx failed"),
        ("image_encoder/config.pbtxt", 'name: "image_encoder"\nmax_batches: 3\n', 'has no field named "max_batches"'),
    ],
)
def test_a_broken_repository_fails_with_tritons_reason(tmp_path: Path, file: str, content: str, reason: str) -> None:
    server = TritonForTests(tmp_path)
    (path,) = server.repository.glob(file)
    path.unlink()  # a link to the bundle's file
    path.write_text(content, encoding="utf-8")
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
    """A server behind TLS, of which all but health and metadata is restricted."""

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
        "--grpc-restricted-protocol=inference,shared-memory,model-config,model-repository,statistics,trace,logging:admin-key=s3cret",
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
