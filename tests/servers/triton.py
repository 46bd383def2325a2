"""A real Triton server for the tests: the package's own `TritonServer`, on free ports, with the Python backend."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc

from milvus_coop.bundle import CROSS_ENCODER, BundleSpec, load_bundle
from milvus_coop.serving.triton import Endpoints, TritonServer, Tuning, export_repository, find_triton
from milvus_coop.serving.triton.config import model_config
from tests.servers.milvus import free_ports
from tests.waiting import wait_until

PATIENT = Tuning(queue_timeout_us=60_000_000)
"""A busy machine fails no test that is not about queues."""


class TritonForTests(TritonServer):
    """Serves a bundle; not started yet."""

    def __init__(
        self,
        folder: Path,
        *,
        bundle: str | Path = "coop-small",
        tuning: Tuning | None = None,
        arguments: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        grpc, http, metrics = free_ports(3)
        self.bundle = load_bundle(bundle)
        self.repository = export_repository(self.bundle, folder / "models", "python", tuning=tuning)
        endpoints = Endpoints(host, grpc, http, metrics)
        super().__init__(find_triton(), self.repository, endpoints=endpoints, arguments=arguments)

    def folder_of(self, model: str) -> Path:
        """The folder of the one version of a model."""
        return self.repository / model / str(self.bundle.spec.served_version)

    @property
    def uri(self) -> str:
        """What `--models` takes."""
        return f"triton://{self.endpoints.url_host}:{self.endpoints.grpc}"


class BreakableTriton(TritonForTests):
    """A server whose models can be unloaded, slowed down, changed and killed."""

    def __init__(self, folder: Path, *, bundle: str | Path = "coop-small") -> None:
        super().__init__(folder, bundle=bundle, tuning=PATIENT, arguments=["--model-control-mode=explicit", "--load-model=*"])
        self._gate, self._arrived = folder / "gate", folder / "arrived"
        script = self.folder_of(CROSS_ENCODER) / "model.py"
        start = "        responses: list[Any] ="
        wait = (
            f"        import time\n        while Path({str(self._gate)!r}).exists():\n"
            f"            Path({str(self._arrived)!r}).touch()\n            time.sleep(0.005)\n"
        )
        lines = script.read_text(encoding="utf-8").replace(start, wait + start)
        assert "time.sleep" in lines
        script.unlink()
        script.write_text(lines, encoding="utf-8")

    def _admin(self, action: Callable[[tritonclient.grpc.InferenceServerClient], None]) -> None:
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.endpoints.grpc}")
        try:
            action(client)
        finally:
            client.close()

    def load(self, model: str) -> None:
        """Load a model, or load it again if its files have changed."""
        self._admin(lambda client: client.load_model(model, client_timeout=60))

    def unload(self, model: str) -> None:
        self._admin(lambda client: client.unload_model(model, client_timeout=60))
        wait_until(lambda: not self.is_ready(model))

    def configure(self, model: str, tuning: Tuning = PATIENT, spec: BundleSpec | None = None) -> None:
        """Write a model's configuration anew, also for another bundle with the same graphs; `load` makes it count."""
        spec = spec or self.bundle.spec
        (folder,) = (path for path in (self.repository / model).iterdir() if path.is_dir())
        folder.rename(folder.with_name(str(spec.served_version)))
        text = model_config(spec, spec.graph(model), "python", tuning)
        (self.repository / model / "config.pbtxt").write_text(text, encoding="utf-8")

    @contextmanager
    def slow_cross_encoder(self) -> Iterator[Callable[[], None]]:
        """The cross-encoder does not answer inside this context, or until what is given is called."""
        self._arrived.unlink(missing_ok=True)
        self._gate.touch()
        try:
            yield lambda: self._gate.unlink(missing_ok=True)
        finally:
            self._gate.unlink(missing_ok=True)

    def wait_until_asked(self) -> None:
        """Wait until a run of the slow cross-encoder has begun."""
        wait_until(self._arrived.exists)

    def kill_process_of(self, model: str) -> None:
        """Kill the Python process of one model."""
        for process in psutil.Process(self.pid).children(recursive=True):
            if process.status() != psutil.STATUS_ZOMBIE and any(model in argument for argument in process.cmdline()):
                process.kill()

    def kill(self) -> None:
        os.kill(self.pid or 0, signal.SIGKILL)
        self.stop()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A server that is there and answers nothing."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def freeze(self) -> None:
        """Make the server hang: it keeps its connections and answers nothing."""
        os.kill(self.pid or 0, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.pid or 0, signal.SIGCONT)


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonForTests]:
    """A Triton server that serves coop-small; leave it running."""
    server = TritonForTests(tmp_path_factory.mktemp("triton"))
    with server:
        yield server
