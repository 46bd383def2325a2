"""The stack of deploy/compose.yaml, brought up once for all tests by pytest-docker, and taken down with its volumes.

`make docker-test` makes the images first, with an engine of the machine's own or one that `engine.py` starts. Without engine or images the
tests are skipped at once: an ordinary test run neither pulls nor builds.

MILVUS_COOP_TEST_COMPOSE: compose files, separated by colons; default deploy/compose.yaml.
MILVUS_COOP_TEST_COMPOSE_COMMAND: default `docker compose`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_docker.plugin import Services

from tests.servers.milvus import free_ports

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "examples" / "images"
FILES = "MILVUS_COOP_TEST_COMPOSE"
COMMAND = "MILVUS_COOP_TEST_COMPOSE_COMMAND"
KEY = "a-key-for-tests-0123456789"
PASSWORD = "a-password-for-tests-0123"
ENGINE_TIMEOUT_S = 10
START_TIMEOUT_S = 300
ATTEMPT_S = 0.5


@dataclass(frozen=True)
class Stack:
    """The running stack."""

    command: tuple[str, ...]
    http: httpx.Client
    """A client of the gateway that has its key."""

    def compose(self, *arguments: str) -> str:
        """Run a compose command that must succeed; its standard output."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, service: str, code: str) -> str:
        """Run Python in a service's container; what it printed."""
        return self.compose("exec", "-T", service, "python3", "-c", code).strip()

    def search(self, text: str, **more: Any) -> Any:
        """What the gateway answers to a search with a text."""
        return self.http.post("/v1/search", json={"text": text, **more}).raise_for_status().json()

    def problems(self) -> Any:
        """What the gateway misses, by part; empty when it is ready."""
        return self.http.get("/readyz").json()["problems"]

    def wait_until(self, check: Callable[[], bool], limit_s: float = 90) -> None:
        """Wait for something to become true; the gateway may be away meanwhile."""
        deadline = time.monotonic() + limit_s
        while not _holds(check):
            assert time.monotonic() < deadline, f"{self.problems()}\n{self.compose('ps', '-a')}\n{self.compose('logs', '--tail', '30')}"
            time.sleep(ATTEMPT_S)


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except httpx.HTTPError:
        return False


def why_not(command: list[str], files: list[str]) -> str | None:
    """Why the stack cannot be brought up on this machine: one line, found within seconds."""
    try:
        info = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=ENGINE_TIMEOUT_S)
        if info.returncode != 0:
            return "no docker engine answers"
        # An interpolated variable may be required; which images there are does not depend on them.
        placeholders = {"MILVUS_ROOT_PASSWORD": PASSWORD, "MILVUS_COOP_SERVE_API_KEYS": KEY, **os.environ}
        listed = [*command, *(part for file in files for part in ("-f", file)), "--profile", "*", "config", "--images"]
        config = subprocess.run(listed, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_S, env=placeholders)
        if config.returncode != 0:
            return f"`{shlex.join(command)}` cannot read the compose files: {config.stderr.strip()}"
        inspect = ["docker", "image", "inspect", *config.stdout.split()]
        found = subprocess.run(inspect, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_S)
    except FileNotFoundError as exc:
        return f"there is no {exc.filename}"
    except subprocess.TimeoutExpired:
        return "the docker engine does not answer"
    return None if found.returncode == 0 else f"the engine lacks {', '.join(_missing(found.stdout, config.stdout.split()))}"


def _missing(inspected: str, wanted: list[str]) -> list[str]:
    there = {tag for image in json.loads(inspected or "[]") for tag in image["RepoTags"]}
    return [image for image in wanted if image not in there] or wanted


@pytest.fixture(scope="session")
def docker_compose_file() -> list[str]:
    """The files, for pytest-docker."""
    return os.environ.get(FILES, str(ROOT / "deploy" / "compose.yaml")).split(":")


@pytest.fixture(scope="session")
def gateway_port() -> int:
    """Where the gateway is published."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def docker_compose_command(docker_compose_file: list[str], gateway_port: int, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compose with the settings of these tests, or a skip; for pytest-docker."""
    command = os.environ.get(COMMAND, "docker compose")
    if reason := why_not(shlex.split(command), docker_compose_file):
        pytest.skip(f"{reason}; `make docker-test` makes what these tests need")
    settings = {
        "MILVUS_ROOT_PASSWORD": PASSWORD,
        "MILVUS_COOP_SERVE_API_KEYS": KEY,
        "GATEWAY_PORT": gateway_port,
        "MILVUS_PORT": free_ports(1)[0],
        "PICTURES": PICTURES,
    }
    env = tmp_path_factory.mktemp("compose") / ".env"
    env.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return f"{command} --env-file {env}"


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """Without building: `make docker-test` did."""
    return [f"up --no-build --pull never --wait --wait-timeout {START_TIMEOUT_S}"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    """With the volumes, and not gently."""
    return ["--profile '*' down --volumes --timeout 1"]


@pytest.fixture(scope="session")
def stack(
    docker_compose_command: str,
    docker_compose_file: list[str],
    docker_compose_project_name: str,
    docker_services: Services,
    gateway_port: int,
) -> Iterator[Stack]:
    """The stack, with every container healthy."""
    files = [part for file in docker_compose_file for part in ("-f", file)]
    command = (*shlex.split(docker_compose_command), *files, "-p", docker_compose_project_name)
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{gateway_port}", headers=headers, timeout=40, trust_env=False) as http:
        yield Stack(command, http)
