"""A rerank server of this process that answers as a test tells it."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Body = dict[str, Any]


@dataclass
class Reply:
    """The answer to one request."""

    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    """End the connection without an answer."""
    cut: int = 0
    """Number of bytes that are announced and not sent."""
    drip: bool = False
    """Send a byte of the header now and then, until the server stops."""


@dataclass
class Asked:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: Body


Answer = Callable[[Asked], Reply]


class Server(ThreadingHTTPServer):
    """Answers with `answer`, and keeps the requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = by_redness
        self.asked: list[Asked] = []
        self.stopping = threading.Event()

    def address(self, protocol: str = "vllm", rest: str = "") -> str:
        """The address for `reranker=`."""
        return f"{protocol}+http://127.0.0.1:{self.server_port}{rest}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, json.loads(content))
        self.server.asked.append(asked)
        reply = self.server.answer(asked)
        if reply.hang_up:
            self.close_connection = True
            return
        if reply.drip:
            while not self.server.stopping.wait(0.05):
                self.wfile.write(b"x")
            return
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.content) + reply.cut), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Server]:
    """A server on a free port of loopback."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


def results(scores: Sequence[float]) -> Reply:
    """An answer in the form of vLLM, Jina and Cohere, best first."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    listed = [{"index": i, "relevance_score": scores[i]} for i in order]
    return Reply(content=json.dumps({"results": listed}).encode())


def documents(asked: Asked) -> list[Any]:
    """The images of a request in vLLM's form, decoded; its texts as they are."""
    return [
        image_of(document["content"][0]["image_url"]["url"]) if isinstance(document, dict) else document
        for document in asked.body["documents"]
    ]


def image_of(url: str) -> Image.Image:
    """The image in a data URL."""
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == "JPEG"
    return image


def redness(image: Image.Image) -> float:
    """The share of red in the middle of an image, 0 to 1."""
    pixel: Any = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    return float(pixel[0]) / 255


def by_redness(asked: Asked) -> Reply:
    """Scores images by their redness, and texts by their length, in vLLM's form."""
    found = documents(asked)
    return results([len(part) / 1000 if isinstance(part, str) else redness(part) for part in found])
