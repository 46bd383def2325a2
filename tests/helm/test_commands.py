"""The commands of the manifests, run: their arguments and variables as a kubelet would make them, only the addresses are local.

Volumes are folders, and what is mounted at /models or /tmp in a pod is elsewhere here; that is all that is changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from milvus_coop import CoopIngest
from milvus_coop.bundle import GRAPHS, TEXT_ENCODER, load_bundle
from milvus_coop.config import Settings
from milvus_coop.errors import BackendUnavailableError
from milvus_coop.models.backends import open_backend
from milvus_coop.serving.triton import Endpoints, TritonInstall, TritonServer, export_repository, find_triton
from milvus_coop.store import Store
from tests.helm.kit import CHART, Manifest, Rendered, expand, render, rendered, values_of
from tests.helm.test_monitoring import exposed
from tests.leftovers import MARK
from tests.servers.milvus import MilvusServer, free_ports

KEY = "key-of-a-client-0123456789"
PICTURES = CHART.parent.parent / "examples" / "images"
WITH_KEYS = (
    "gateway.anonymous=false,gateway.apiKeysSecret.name=keys,pictures.existingClaim=photos,ingest.enabled=true,"
    "triton.keySecret.name=key"
)
START_S = 60.0


def container_of(found: Rendered, kind: str, name: str, container: str) -> Manifest:
    pod = next(pod for pod_name, pod in found.pods() if pod_name.startswith(f"{kind} ") and pod_name.endswith(name))
    spec = pod["spec"]
    return next(c for c in (*spec.get("initContainers", ()), *spec["containers"]) if c["name"] == container)


def command_of(found: Rendered, container: Manifest, secrets: Mapping[str, str], moved: Mapping[str, str]) -> list[str]:
    """What the container runs, whatever its image's entrypoint is. `moved`: paths that are elsewhere."""
    module = ["-m", "milvus_coop"]
    python = [
        sys.executable,
        *{"milvus-coop": module, "python3 -m milvus_coop": module, "python": []}[" ".join(container["command"])],
    ]
    return [*python, *arguments_of(found, container, secrets, moved)]


def arguments_of(found: Rendered, container: Manifest, secrets: Mapping[str, str], moved: Mapping[str, str]) -> list[str]:
    variables = found.environment(container, secrets)
    arguments = [expand(argument, variables) for argument in container["args"]]
    for path, place in moved.items():
        arguments = [re.sub(f"(^|=){re.escape(path)}(?=/|$)", lambda m, to=place: m[1] + to, argument) for argument in arguments]  # type: ignore[misc]
    return arguments


def environment_of(found: Rendered, container: Manifest, secrets: Mapping[str, str], folder: Path, **local: str) -> dict[str, str]:
    """The container's variables and nothing else but what a process on this machine needs."""
    machine = {
        name: os.environ[name] for name in ("PATH", "LANG", "XDG_CACHE_HOME", "MILVUS_COOP_CACHE", MARK) if name in os.environ
    }
    cache = {} if "XDG_CACHE_HOME" in machine else {"XDG_CACHE_HOME": str(Path.home() / ".cache")}  # where Triton is installed
    return {**machine, **cache, **found.environment(container, secrets), "HOME": str(folder), "TMPDIR": str(folder), **local}


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves, ended as a kubelet ends it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=log.parent)
    try:
        yield process
        assert process.poll() is None, log.read_text()[-2000:]
        process.terminate()
        assert process.wait(45) in (0, -15), log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def status_of(url: str) -> int:
    """The status that a probe sees; 0: nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=12) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


def probe(container: Manifest, name: str, ports: Mapping[str, int]) -> int:
    asked = container[name]["httpGet"]
    return status_of(f"http://127.0.0.1:{ports[asked['port']]}{asked['path']}")


def wait_for(container: Manifest, name: str, ports: Mapping[str, int], process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + START_S
    while probe(container, name, ports) != 200:
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < until_s, log.read_text()[-2000:]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def chart() -> Rendered:
    return render(values_of(("cpu",), WITH_KEYS))


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    return {
        "MILVUS_COOP_SERVE_API_KEYS": f"{KEY},another-client-0123456789",
        "TRITON_KEY": "key of triton",
        "POD_UID": str(uuid.uuid4()),
    }


@pytest.fixture(scope="module")
def triton_port(chart: Rendered, secrets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Triton as the chart's pod runs it: the init container's export, then the server with all that locks it."""
    folder = tmp_path_factory.mktemp("triton-pod")
    moved = {"/models": str(folder / "models")}
    export = container_of(chart, "Deployment", "-triton", "export")
    (folder / "models").mkdir()
    command = command_of(chart, export, secrets, moved)
    subprocess.run(command, env=environment_of(chart, export, secrets, folder), check=True, capture_output=True, timeout=60)

    server = container_of(chart, "Deployment", "-triton", "triton")
    grpc, http, metrics = free_ports(3)
    command = command_of(chart, server, secrets, moved)
    here = command.index("--")
    command[here:here] = ["--port", str(grpc), "--http-port", str(http), "--metrics-port", str(metrics)]
    command = [argument.replace("--host=0.0.0.0", "--host=127.0.0.1") for argument in command]
    log = folder / "log.txt"
    with running(command, environment_of(chart, server, secrets, folder), log) as process:
        ports = {"http": http, "metrics": metrics}
        wait_for(server, "startupProbe", ports, process, log)
        assert probe(server, "readinessProbe", ports) == probe(server, "livenessProbe", ports) == 200
        for path in ("v2", f"v2/models/{TEXT_ENCODER}/config", "v2/systemsharedmemory/status", "v2/repository/index"):
            assert status_of(f"http://127.0.0.1:{http}/{path}") == 403
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as answer:
            assert "nv_inference_pending_request_count" in exposed(answer.read().decode())
        yield grpc


@pytest.mark.triton
def test_triton_is_open_to_who_has_the_key_and_for_nothing_else(chart: Rendered, secrets: dict[str, str], triton_port: int) -> None:
    gateway = container_of(chart, "Deployment", "-gateway", "gateway")
    given = Settings.from_env(chart.environment(gateway, secrets))
    uri = f"triton://127.0.0.1:{triton_port}"
    backend = open_backend(given.override(models=uri), load_bundle("coop-small"))
    backend.load(GRAPHS)
    backend.close()
    without = open_backend(Settings(models=uri, timeout_s=5), load_bundle("coop-small"))
    with pytest.raises(BackendUnavailableError, match="restricted"):
        without.load(GRAPHS)
    without.close()
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{triton_port}")
    key = {"triton-grpc-protocol-key": secrets["TRITON_KEY"]}
    for action in (client.get_system_shared_memory_status, client.get_model_repository_index, client.get_inference_statistics):
        with pytest.raises(InferenceServerException, match="restricted"):
            action(headers=key)
    pod = {"triton-grpc-protocol-pod": secrets["POD_UID"]}
    with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed"):
        client.unload_model(TEXT_ENCODER, headers=pod)
    client.close()


@pytest.mark.server
@pytest.mark.triton
def test_a_release(chart: Rendered, secrets: dict[str, str], triton_port: int, milvus_server: MilvusServer, tmp_path: Path) -> None:
    """Ingest, gateway and test, on a Milvus server and on the chart's Triton: what an installation does, in its order."""
    local = {"MILVUS_COOP_URI": milvus_server.uri, "MILVUS_COOP_MODELS": f"triton://127.0.0.1:{triton_port}"}
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("dog.jpg", "cat.jpg", "apple.jpg"):
        shutil.copy(PICTURES / name, pictures)
    moved = {"/pictures": str(pictures), "/test": str(CHART / "files")}

    ingest = container_of(chart, "Job", "-ingest-1", "ingest")
    environment = environment_of(chart, ingest, secrets, tmp_path, **local)
    command = command_of(chart, ingest, secrets, moved)
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert first.returncode == 0, first.stderr
    (pictures / "broken.jpg").write_bytes(b"no picture")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1, "what podFailurePolicy takes for: some pictures cannot be read"
    assert "broken.jpg" in again.stdout + again.stderr

    gateway = container_of(chart, "Deployment", "-gateway", "gateway")
    (port,) = free_ports(1)
    there = {"MILVUS_COOP_SERVE_HOST": "127.0.0.1", "MILVUS_COOP_SERVE_PORT": str(port), "MILVUS_COOP_SERVE_ROOTS": str(pictures)}
    environment = environment_of(chart, gateway, secrets, tmp_path, **local, **there)
    log, ports = tmp_path / "gateway.txt", {"http": port}
    try:
        with running(command_of(chart, gateway, secrets, {}), environment, log) as process:
            wait_for(gateway, "startupProbe", ports, process, log)
            assert probe(gateway, "livenessProbe", ports) == probe(gateway, "readinessProbe", ports) == 200
            found = ask(port, {"text": "a dog", "limit": 1})
            assert found["reranked"]
            assert found["hits"][0]["uri"].endswith("/dog.jpg")
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(port, {"text": "a dog"}, key="")
            assert status_of(f"http://127.0.0.1:{port}/metrics") == 200

            test = container_of(chart, "Pod", "-test", "test")
            command = command_of(chart, test, secrets, moved)
            assert command[-1] == "http://demo-milvus-coop-gateway:8080"
            done = subprocess.run(
                [*command[:-1], f"http://127.0.0.1:{port}"],
                env=environment_of(chart, test, secrets, tmp_path, **local),
                capture_output=True,
                text=True,
                timeout=90,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.endswith("passed\n")
            with Store(milvus_server.uri) as store:
                assert "milvus_coop_test" not in {info.name for info in store.list()}
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                metrics = exposed(answer.read().decode())
            assert "coop" in metrics["milvus_coop_searches_total"]["order"]
            assert "degraded" not in metrics["milvus_coop_searches_total"]["order"]
            assert "/v1/search" in metrics["milvus_coop_request_seconds_bucket"]["route"]
    finally:
        with Store(milvus_server.uri) as store:
            store.drop("images")
    for line in log.read_text(encoding="utf-8").splitlines()[1:]:
        assert KEY not in line
        json.loads(line)


def ask(port: int, body: dict[str, Any], key: str = KEY) -> dict[str, Any]:
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/search", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)
    assert isinstance(found, dict)
    return found


def test_a_gateway_whose_milvus_and_triton_are_away(tmp_path: Path) -> None:
    """It starts, is alive, is not ready, says why, and is ready once they are there: nothing restarts it meanwhile."""
    chart = rendered("cpu")
    gateway = container_of(chart, "Deployment", "-gateway", "gateway")
    nobody, port = free_ports(2)
    local = {
        "MILVUS_COOP_URI": f"http://127.0.0.1:{nobody}",
        "MILVUS_COOP_MODELS": f"triton://127.0.0.1:{nobody}",
        "MILVUS_COOP_SERVE_HOST": "127.0.0.1",
        "MILVUS_COOP_SERVE_PORT": str(port),
        "MILVUS_COOP_TIMEOUT_S": "1",
    }
    log, ports = tmp_path / "gateway.txt", {"http": port}
    with running(command_of(chart, gateway, {}, {}), environment_of(chart, gateway, {}, tmp_path, **local), log) as process:
        wait_for(gateway, "startupProbe", ports, process, log)
        assert probe(gateway, "readinessProbe", ports) == 503
        assert probe(gateway, "livenessProbe", ports) == 200
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
        assert json.load(caught.value)["problems"].keys() == {"milvus", "models"}
        assert probe(gateway, "livenessProbe", ports) == 200


@pytest.mark.triton
def test_the_server_of_a_gpu_pod(secrets: dict[str, str], tmp_path: Path) -> None:
    """Its tritonserver, with models for CPUs, takes all arguments; and the gateway's variables open it: mutual TLS, and the key."""
    chart = rendered("TLS")
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    certificate = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "tls.key",
        "-out",
        "tls.crt",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*certificate, *names], cwd=tmp_path, check=True, capture_output=True)
    shutil.copy(tmp_path / "tls.crt", tmp_path / "ca.crt")
    export_repository(load_bundle("coop-small"), tmp_path / "models" / "repository", "python")

    server = container_of(chart, "Deployment", "-triton", "triton")
    assert server["command"] == ["tritonserver"]
    install = find_triton()
    grpc, http, metrics = free_ports(3)
    moved = {"/models": str(tmp_path / "models"), "/tls": str(tmp_path)}
    here = [f"--{name}-address=127.0.0.1" for name in ("grpc", "http", "metrics")]
    ports = [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}", f"--backend-directory={install.backends}"]
    command = [
        str(install.binary),
        *arguments_of(chart, server, secrets, moved),
        *here,
        *(ports if install.backends else ports[:3]),
    ]
    log = tmp_path / "log.txt"
    with running(command, {**environment_of(chart, server, secrets, tmp_path), **install.environment}, log) as process:
        wait_for(server, "startupProbe", {"http": http}, process, log)
        gateway = container_of(chart, "Deployment", "-gateway", "gateway")
        given = Settings.from_env(chart.environment(gateway, secrets))
        files = {
            name: getattr(given, name).replace("/etc/milvus-coop/triton", str(tmp_path))
            for name in ("triton_ca_file", "triton_cert_file", "triton_key_file")
        }
        backend = open_backend(given.override(models=f"tritons://localhost:{grpc}", **files), load_bundle("coop-small"))
        backend.load(GRAPHS)
        backend.close()
        assert probe(server, "readinessProbe", {"http": http}) == probe(server, "livenessProbe", {"http": http}) == 200


def test_the_addresses_of_ipv6_are_those_of_triton_serve() -> None:
    """`TritonServer` gives Triton the same; tests/integration/test_triton_server.py runs it."""
    server = TritonServer(TritonInstall(Path("tritonserver"), None, {}), Path("models"), endpoints=Endpoints("::"))
    server._address = "::"
    theirs = {argument for argument in server._command() if "-address=" in argument}
    gpu = container_of(rendered("IPv6"), "Deployment", "-triton", "triton")
    assert {argument for argument in gpu["args"] if "-address=" in argument} == theirs
    assert len(theirs) == 3
    assert "--host=::" in container_of(rendered("IPv6 on CPUs"), "Deployment", "-triton", "triton")["args"]


@pytest.mark.parametrize("case", ["gpu", "own bundle"])
def test_the_graphs_of_a_gpu_pod(case: str, tmp_path: Path) -> None:
    """The export of a pod with GPUs runs here; what comes after it needs one."""
    pytest.importorskip("onnx")
    chart = rendered(case)
    export = container_of(chart, "Deployment", "-triton", "export")
    bundles = tmp_path / "bundles"
    shutil.copytree(load_bundle("coop-small").folder, bundles / "BLIP_base.2")
    moved = {"/models": str(tmp_path / "models"), "/bundles": str(bundles)}
    command = command_of(chart, export, {}, moved)
    (tmp_path / "models").mkdir()
    subprocess.run(command, env=environment_of(chart, export, {}, tmp_path), check=True, capture_output=True, timeout=60)
    plans = container_of(chart, "Deployment", "-triton", "plans")
    (repository,) = (a for a in command_of(chart, plans, {}, moved) if a.startswith(moved["/models"]))
    assert sorted(path.parent.name for path in Path(repository).glob("*/config.pbtxt")) == sorted(GRAPHS)
    done = subprocess.run(
        command_of(chart, plans, {}, moved), env=environment_of(chart, plans, {}, tmp_path), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "no NVIDIA driver here" in done.stderr or "TensorRT" in done.stderr, "the command is right, and this machine has no GPU"
    server = container_of(chart, "Deployment", "-triton", "triton")
    assert f"--model-repository={repository.replace(moved['/models'], '/models')}" in server["args"]


def test_a_gateway_with_models_of_its_own(tmp_path: Path) -> None:
    chart = rendered("in process")
    gateway = container_of(chart, "Deployment", "-gateway", "gateway")
    (port,) = free_ports(1)
    database = tmp_path / "lite.db"
    with CoopIngest("images", uri=database) as ingest:
        ingest.run([PICTURES / "dog.jpg"])
    local = {"MILVUS_COOP_URI": str(database), "MILVUS_COOP_SERVE_HOST": "127.0.0.1", "MILVUS_COOP_SERVE_PORT": str(port)}
    log, ports = tmp_path / "gateway.txt", {"http": port}
    keys = {"MILVUS_COOP_SERVE_API_KEYS": KEY}
    with ExitStack() as stack:
        process = stack.enter_context(
            running(command_of(chart, gateway, keys, {}), environment_of(chart, gateway, keys, tmp_path, **local), log)
        )
        wait_for(gateway, "readinessProbe", ports, process, log)
        assert ask(port, {"text": "a dog"})["hits"][0]["uri"].endswith("dog.jpg")
