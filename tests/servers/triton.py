"""A real Triton server for the tests: the package's own `TritonServer`, on free ports, with the Python backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from milvus_coop.bundle import load_bundle
from milvus_coop.serving.triton import Endpoints, TritonServer, Tuning, export_repository, find_triton
from tests.servers.milvus import free_ports


class TritonForTests(TritonServer):
    """Serves `coop-small`; not started yet."""

    def __init__(
        self, folder: Path, *, tuning: Tuning | None = None, arguments: Sequence[str] = (), host: str = "127.0.0.1"
    ) -> None:
        grpc, http, metrics = free_ports(3)
        self.repository = export_repository(load_bundle("coop-small"), folder / "models", "python", tuning=tuning)
        endpoints = Endpoints(host, grpc, http, metrics)
        super().__init__(find_triton(), self.repository, endpoints=endpoints, arguments=arguments)

    @property
    def uri(self) -> str:
        """What `--models` takes."""
        return f"triton://{self.endpoints.url_host}:{self.endpoints.grpc}"


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonForTests]:
    """A Triton server that serves coop-small; leave it running."""
    server = TritonForTests(tmp_path_factory.mktemp("triton"))
    with server:
        yield server
