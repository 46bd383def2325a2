"""`milvus-coop serve` as a process: how it starts, how it ends, and what it says when it cannot start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.gateway.conftest import EXAMPLES, KEY
from tests.servers.milvus import free_ports
from tests.waiting import wait_until

COMMAND = (sys.executable, "-m", "milvus_coop", "serve", "--port", "0", "--threads", "1", "--log", "json")


@contextmanager
def serving(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running service: its address, and the process."""
    variables = {**os.environ, **(environment or {})}
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=variables)
    assert process.stderr is not None
    try:
        yield json.loads(process.stderr.readline())["address"], process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_it_answers_and_ends_well(database: Path) -> None:
    with serving("--uri", database) as (address, process):
        assert httpx.get(f"{address}/readyz", timeout=60).json()["status"] == "ready"
        answer = httpx.post(f"{address}/v1/search", json={"text": "a cat", "limit": 1}, timeout=60).json()
        assert answer["hits"][0]["uri"].endswith("cat.jpg")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert [line["path"] for line in lines] == ["/v1/search"]
    with closing(socket.create_server(("127.0.0.1", 0))):
        pass
    with serving("--uri", database) as (address, _):  # the folder's lock is free again
        assert httpx.get(f"{address}/readyz", timeout=60).status_code == 200


def test_it_listens_on_loopback_of_ipv6(database: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving("--uri", database, "--host", "::1") as (address, _):
        assert address.startswith("http://[::1]:")
        own_page = {"origin": address}
        answer = httpx.post(f"{address}/v1/search", json={"text": "a cat", "limit": 1}, headers=own_page, timeout=60)
        assert answer.json()["hits"][0]["uri"].endswith("cat.jpg")
        assert httpx.get(address, timeout=60).status_code == 200


def test_each_line_of_the_log_is_json(database: Path) -> None:
    """Those of libraries as well: OpenTelemetry complains of a collector that is away."""
    nobody = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with serving("--uri", database, "--trace", environment=nobody) as (address, process):
        assert httpx.post(f"{address}/v1/search", json={"text": "a cat"}, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert lines[0]["path"] == "/v1/search"
    assert any("export" in line["event"] for line in lines)


def test_the_log_for_people(database: Path) -> None:
    """The last `--log` counts."""
    with subprocess.Popen([*COMMAND, "--log", "text", "--uri", database], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.kill()
    assert re.fullmatch(r"milvus-coop serves http://127\.0\.0\.1:\d+  \(stop with Ctrl-C\)\n", line)


def test_what_runs_is_finished_first(tmp_path: Path) -> None:
    pictures = sorted((EXAMPLES / "images").glob("*.jpg"))
    done: list[int] = []
    with serving("--uri", tmp_path / "new.db", "--uploads", tmp_path / "up") as (address, process):

        def upload() -> None:
            files = [("files", (path.name, path.read_bytes())) for path in pictures]
            done.append(httpx.post(f"{address}/v1/items", files=files, timeout=120).json()["added"])

        thread = threading.Thread(target=upload)
        thread.start()
        wait_until(lambda: "milvus_coop_pending 1.0" in httpx.get(f"{address}/metrics", timeout=60).text)
        assert not done
        process.send_signal(signal.SIGINT)
        thread.join()
        assert process.wait(60) == 0
    assert done == [len(pictures)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "would answer anybody"),
        (("--host", "192.0.2.1", "--anonymous"), "cannot listen on 192.0.2.1"),
        (("--api-key", "short"), "too short"),
        (("--root", "no/such"), "no/such"),
        (("--uri", "no-such.db"), "no Milvus Lite database"),
        (("--bundle", "none"), "none"),
        (("--models", "torch"), "torch"),
        (("--port", "70000"), "70000"),
    ],
)
def test_what_keeps_it_from_starting(database: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    command = [*COMMAND, "--uri", str(database), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert KEY not in ended.stderr


def test_a_misspelt_variable_keeps_it_from_starting(database: Path) -> None:
    environment = {**os.environ, "MILVUS_COOP_SERVE_KEY_FILTER": '{"secret": "tenant == 1"}'}
    ended = subprocess.run([*COMMAND, "--uri", database], capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == 2
    assert "Expected: MILVUS_COOP_SERVE_KEY_FILTERS" in ended.stderr
    assert "tenant" not in ended.stderr


def test_a_port_that_is_taken(database: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([*COMMAND, "--uri", database, "--port", port], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ended.stderr


def test_a_database_that_another_service_has(database: Path, tmp_path: Path) -> None:
    with serving("--uri", database):
        command = [*COMMAND, "--uri", str(database), "--uploads", str(tmp_path / "uploads"), "--port", "0"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "another process has" in ended.stderr
