"""A running service on a free port, and a Milvus Lite database with pictures and captions of a toy bundle."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from milvus_coop import Backend, CoopIngest, CoopSearch
from milvus_coop.bundle.spec import Keep
from milvus_coop.config import Settings
from milvus_coop.models.open import open_models
from milvus_coop.serving.gateway.app import create_app
from milvus_coop.serving.gateway.options import GatewayOptions
from milvus_coop.serving.gateway.service import Service
from tests.servers.milvus import free_ports
from tests.toy_bundle import draw, make_bundle

KEY = "a-key-for-tests-0123"
N = 40
CAPTIONS = ("a red dog", "a blue cat", "the green beach", "a dog on the beach", "red", "a cat on the red beach")
START_S = 60.0


@dataclass
class Running:
    """A service that listens."""

    service: Service
    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def counted(self, name: str, protocol: str) -> float:
        """The value of a counter."""
        found = self.service.metrics.registry.get_sample_value(f"milvus_coop_{name}_total", {"protocol": protocol})
        return found or 0.0

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """Send JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **self.headers, **options.pop("headers", {})}
        return httpx.post(self.url + path, content=content, headers=headers, timeout=30, **options)


@contextlib.contextmanager
def running(bundle: Path, *, uri: Path | None = None, backend: Backend | None = None, **options: Any) -> Iterator[Running]:
    """Serve a bundle from a thread, with the options of `GatewayOptions`."""
    (port,) = free_ports(1)
    settings = Settings(bundle=str(bundle), uri=str(uri or bundle / "none.db"), threads=1)
    service = Service(settings, GatewayOptions(port=port, **options))
    if backend is not None:
        service.models.close()
        service.models = open_models(settings, backend)
    server = uvicorn.Server(uvicorn.Config(create_app(service), host="127.0.0.1", port=port, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + START_S
    while not server.started and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert server.started
    keys = options.get("api_keys", ())
    try:
        yield Running(service, f"http://127.0.0.1:{port}", {"authorization": f"Bearer {keys[0]}"} if keys else {})
    finally:
        server.should_exit = True
        thread.join(START_S)


@dataclass(frozen=True)
class World:
    """A database with the collections `images` and `captions`, and the bundle that made them."""

    folder: Path
    keep: Keep = "collection"

    @property
    def uri(self) -> Path:
        """The database."""
        return self.folder / "lite.db"

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "bundle"

    def search(self, name: str = "images") -> CoopSearch:
        """Open a collection."""
        return CoopSearch(name, uri=self.uri, bundle=self.bundle)


def make_world(folder: Path, keep: Keep = "collection") -> World:
    """Ingest 40 pictures, with years 2000 to 2039, and six captions."""
    world = World(folder, keep)
    make_bundle(world.bundle, keep)
    lines = [json.dumps({"path": str(draw(folder / f"{i:02}.png", i)), "year": 2000 + i}) for i in range(N)]
    (folder / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "captions.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    for kind, source in (("image", "list.jsonl"), ("text", "captions.txt")):
        name = "images" if kind == "image" else "captions"
        with CoopIngest(name, kind=kind, uri=world.uri, bundle=world.bundle) as ingest:  # type: ignore[arg-type]
            assert not ingest.run([folder / source]).failures
    return world
