"""A small server that speaks as much of the Hugging Face hub's protocol as downloading a model takes, on loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "owner/gated"


class Hub(BaseHTTPRequestHandler):
    """Serves `models`: id -> folder, at one commit, also known as main and v1."""

    models: dict[str, Path]
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        owner, name, verb, *rest = path.removeprefix("/api/models").strip("/").split("/")
        folder = self.models.get(f"{owner}/{name}")
        if f"{owner}/{name}" == GATED:
            self._refuse(403, "GatedRepo")
        elif folder is None:
            self._refuse(401, "RepoNotFound")
        elif rest[0] not in ("main", "v1", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif verb == "resolve":
            self._send((folder / rest[1]).read_bytes())
        elif verb == "tree":
            files = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40} for p in sorted(folder.iterdir())]
            self._send(json.dumps(files).encode())
        else:
            files = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
            self._send(json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": files}).encode())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Run the server; gives its address, and the paths that were asked for."""
    handler = type("Handler", (Hub,), {"models": models, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()
