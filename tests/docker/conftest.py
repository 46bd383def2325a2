"""The stack of deploy/compose.yaml, brought up once for all tests by pytest-docker, and taken down with its volumes.

`make docker-test` makes the images first; `make docker-test-local` does where there is no engine and no registry. Without an engine
that has the images the tests are skipped at once: an ordinary test run neither pulls nor builds.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pytest_docker.plugin import Services

from tests.docker.availability import COMMAND, FILES, ROOT, SECRETS
from tests.servers.milvus import free_ports

PICTURES = ROOT / "examples" / "images"
START_TIMEOUT_S = 300
ATTEMPT_S = 0.5


@dataclass(frozen=True)
class Stack:
    """The running stack."""

    command: tuple[str, ...]
    http: httpx.Client
    """A client of the gateway that has its key."""
    milvus: str
    """Where Milvus is."""

    def compose(self, *arguments: str) -> str:
        """Run a compose command that must succeed; its standard output."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, service: str, code: str, program: str = "python3") -> str:
        """Run Python in a service's container; what it printed."""
        return self.compose("exec", "-T", service, program, "-c", code).strip()

    def search(self, text: str, **more: Any) -> Any:
        """What the gateway answers to a search with a text."""
        return self.http.post("/v1/search", json={"text": text, **more}).raise_for_status().json()

    def problems(self) -> Any:
        """What the gateway misses, by part; empty when it is ready."""
        return self.http.get("/readyz").json()["problems"]

    def wait_until(self, check: Callable[[], bool], limit_s: float = 180) -> None:
        """Wait for something to become true; the gateway may be away meanwhile."""
        deadline = time.monotonic() + limit_s
        while not _holds(check):
            assert time.monotonic() < deadline, f"{self.compose('ps', '-a')}\n{self.compose('logs', '--tail', '30')}"
            time.sleep(ATTEMPT_S)


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def ports() -> dict[str, int]:
    """Where the gateway and Milvus are published."""
    return dict(zip(("GATEWAY_PORT", "MILVUS_PORT"), free_ports(2), strict=True))


@pytest.fixture(scope="session")
def docker_compose_command(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compose with the settings of these tests; for pytest-docker, as the next three."""
    settings = {**SECRETS, **ports, "PICTURES": PICTURES}
    env = tmp_path_factory.mktemp("compose") / ".env"
    env.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return f"{COMMAND} --env-file {env}"


@pytest.fixture(scope="session")
def docker_compose_file() -> list[str]:
    return FILES


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return [f"up --no-build --pull never --wait --wait-timeout {START_TIMEOUT_S}"]


@pytest.fixture(scope="session")
def docker_cleanup(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    log = tmp_path_factory.mktemp("logs") / "stack.log"
    return [f"logs --no-color > {log}", "--profile '*' down --volumes --timeout 1"]


@pytest.fixture(scope="session")
def stack(
    docker_services: Services, docker_compose_command: str, docker_compose_project_name: str, ports: dict[str, int]
) -> Iterator[Stack]:
    """The stack, with every container healthy."""
    files = [f"--file={file}" for file in FILES]
    command = (*shlex.split(docker_compose_command), *files, f"--project-name={docker_compose_project_name}")
    headers = {"authorization": f"Bearer {SECRETS['MILVUS_COOP_SERVE_API_KEYS']}"}
    gateway, milvus = (f"http://127.0.0.1:{ports[name]}" for name in ("GATEWAY_PORT", "MILVUS_PORT"))
    with httpx.Client(base_url=gateway, headers=headers, timeout=40, trust_env=False) as http:
        yield Stack(command, http, milvus)
