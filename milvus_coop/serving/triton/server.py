"""One tritonserver process on this machine: starts it, waits until every model is ready, watches it, and stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from milvus_coop.bundle.spec import GRAPHS
from milvus_coop.errors import TritonError
from milvus_coop.serving.triton.guard import Guard
from milvus_coop.serving.triton.install import TritonInstall
from milvus_coop.serving.triton.log import ServerLog

EXIT_TIMEOUT_S = 5
"""Time that running requests get to finish when Triton is stopped, in seconds."""
POLL_S = 0.1
WATCH_S = 1.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder of shared memory in Linux
S = TypeVar("S", bound="TritonServer")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own process is not behind the machine's HTTP proxy


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The host and the ports on which a server listens."""

    host: str = "127.0.0.1"
    """An IPv4 or IPv6 address, or a name of this machine."""
    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002

    @property
    def url_host(self) -> str:
        """The host as it stands in URLs."""
        return _in_url(self.host)


class TritonServer:
    """A server with a model repository; `with TritonServer(...) as server:` starts and stops it.

    Args:
        install: the tritonserver to start; see `find_triton`.
        repository: a folder from `export_repository`.
        endpoints: the address and ports to listen on; default loopback.
        start_timeout_s: time limit for all models to be ready.
        arguments: more arguments for tritonserver, such as `--model-control-mode=explicit`.
        on_problem: a function that is called with every error line that Triton logs during `wait`.
    """

    def __init__(
        self,
        install: TritonInstall,
        repository: Path,
        *,
        endpoints: Endpoints | None = None,
        start_timeout_s: float = 120.0,
        arguments: Sequence[str] = (),
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.endpoints = endpoints or Endpoints()
        self._install = install
        self._repository = repository
        self._start_timeout_s = start_timeout_s
        self._arguments = tuple(arguments)
        self._on_problem = on_problem
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._log: ServerLog | None = None
        self._address = ""
        self._shared_memory = f"milvus-coop-{uuid.uuid4().hex}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server; None if it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until every model is ready.

        The server stops when this process ends in any way, even by SIGKILL.

        Raises:
            TritonError: the host is unknown, a port is in use, a model cannot be loaded (with Triton's reason), or the time limit
                passed.
        """
        self._address = _address_of(self.endpoints.host)
        for port in (self.endpoints.grpc, self.endpoints.http, self.endpoints.metrics):
            _check_port(self._address, port)
        self._log = ServerLog()
        with self._log.path.open("ab") as log:  # appends, also after the log was emptied
            process = self._process = subprocess.Popen(
                self._command(),
                env={**os.environ, **self._install.environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must not stop it directly; `stop` does so in order
            )
        try:
            self._guard = Guard(process.pid, EXIT_TIMEOUT_S + 5, self._log.path, SHARED_MEMORY / self._shared_memory)
            self._wait_until_ready(process)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Wait until the server ends by itself, and report its problems meanwhile. Returns its exit code.

        Raises:
            TritonError: a process of its Python backend ended. Triton does not restart it, still reports the model as ready, and
                fails every request for it. So the server should be started again.
        """
        if self._process is None or self._log is None:
            return 0
        self._log.skip()
        models = self._model_processes(self._process.pid)
        while (code := self._process.poll()) is None:
            time.sleep(WATCH_S)
            for line in self._log.new_errors():
                self._on_problem(line)
            if models - self._model_processes(self._process.pid) and self._process.poll() is None:
                raise TritonError("a process that runs a model has ended, and Triton starts no other", run="start the server again")
        return code

    def _model_processes(self, server: int) -> set[int]:
        """Ids of the Python backend's running processes. Empty if models may be unloaded, because processes then end normally."""
        if any(argument.startswith("--model-control-mode") and "none" not in argument for argument in self._arguments):
            return set()
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                state, parent = path.read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()[:2]
                if int(parent) == server and state != "Z":
                    found.add(int(path.parent.name))
        return found

    def problems(self) -> list[str]:
        """Triton's last error lines; without any, the last lines of its log."""
        return self._log.problems() if self._log is not None else []

    def stop(self) -> None:
        """Let running requests finish, then stop the server. Safe to call twice."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT_S + 5)
        if self._process.returncode != 0:  # it hangs or was killed; the processes of its Python backend and their memory are left
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for leftover in SHARED_MEMORY.glob(f"{self._shared_memory}*"):
                leftover.unlink(missing_ok=True)
        self._process = None
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None
        if self._log is not None:
            self._log.remove()
            self._log = None

    def __enter__(self: S) -> S:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _command(self) -> list[str]:
        e = self.endpoints
        http_address = f"ipv6:{self._address}" if ":" in self._address else self._address
        flags: dict[str, object] = {
            "model-repository": self._repository,
            "http-address": http_address,
            "grpc-address": _in_url(self._address),
            "metrics-address": http_address,
            "http-port": e.http,
            "grpc-port": e.grpc,
            "metrics-port": e.metrics,
            "exit-timeout-secs": EXIT_TIMEOUT_S,
            "backend-config": f"python,shm-region-prefix-name={self._shared_memory}",
        }
        if self._install.backends is not None:
            flags["backend-directory"] = self._install.backends
        return [
            str(self._install.binary),
            *(f"--{name}={value}" for name, value in flags.items()),
            "--disable-auto-complete-config",
            *self._arguments,
        ]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not all(self.is_ready(model) for model in GRAPHS):
            if process.poll() is not None:
                raise TritonError(f"Triton stopped while starting: {_join(self.problems())}")
            if time.monotonic() > deadline:
                missing = [model for model in GRAPHS if not self.is_ready(model)]
                raise TritonError(f"{', '.join(missing)} not ready after {self._start_timeout_s:g} s: {_join(self.problems())}")
            time.sleep(POLL_S)

    def is_ready(self, model: str) -> bool:
        """True if one model can be run. A server can be ready while a model is not."""
        return self._get(f"v2/models/{model}/ready")

    def _get(self, path: str) -> bool:
        url = f"http://{_in_url(self._address)}:{self.endpoints.http}/{path}"
        try:
            with _OPENER.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _address_of(host: str) -> str:
    """The IP address of a host, IPv4 if it has both kinds. Triton's HTTP service does not take names."""
    try:
        found = {family: str(address[0]) for family, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as exc:
        raise TritonError(f"the host '{host}' has no address", expected="an IP address, or a name of this machine") from exc
    return found.get(socket.AF_INET) or next(iter(found.values()))


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise TritonError(f"port {port} on {host} cannot be used: {exc.strerror}", run="another port") from exc


def _join(lines: Sequence[str]) -> str:
    """The first reasons, without repetition (both instances of a model log the same) and without the Python backend's traceback."""
    reasons = dict.fromkeys((line.partition("] ")[2] or line).partition("\\n\\nAt:")[0] for line in lines)
    return " | ".join(list(reasons)[:3])
