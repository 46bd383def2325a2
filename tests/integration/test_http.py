"""Files at http:// addresses: allowed or refused, limited in size and time, and never at a private address."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from milvus_coop.errors import SourceError
from milvus_coop.ingest import ingest
from milvus_coop.ingest.sources import Reading, Web
from milvus_coop.models.backends.fake import FakeBackend
from milvus_coop.servers.http import Address, is_public
from milvus_coop.types import IngestReport
from tests.certificates import make_certificate

from .ingest_kit import SPEC, MemorySink, encoder, picture


class Server(ThreadingHTTPServer):
    """Serves files and strange answers."""

    daemon_threads = True
    files: dict[str, bytes]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        if name.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", name[3:])
            self.end_headers()
        elif name == "drip":
            self.send_response(200)
            self.end_headers()
            while not self.server.stopping.wait(0.05):  # type: ignore[attr-defined]
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
        elif name in self.server.files:
            content = self.server.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + (5 if name == "short" else 0)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    opened = Server(("127.0.0.1", 0), Handler)
    opened.stopping = threading.Event()  # type: ignore[attr-defined]
    opened.files = {"a.png": picture(tmp_path / "a.png").read_bytes(), "short": b"x", "big": bytes(5000)}
    thread = threading.Thread(target=opened.serve_forever)
    thread.start()
    try:
        yield opened
    finally:
        opened.stopping.set()  # type: ignore[attr-defined]
        opened.shutdown()
        thread.join()
        opened.server_close()


def anywhere(address: Address) -> bool:
    return True


def run(sink: MemorySink, folder: Path, *sources: str | Path, web: Web | None) -> IngestReport:
    return ingest(sources, sink=sink, encoder=encoder(FakeBackend(SPEC), folder), reading=Reading(web=web))


def test_images_and_lists(server: Server, tmp_path: Path) -> None:
    sink, web = MemorySink(), Web(anywhere)
    server.files["list.jsonl"] = json.dumps({"path": "a.png", "uri": "mine", "n": 1}).encode()
    report = run(sink, tmp_path, server.url("a.png"), server.url("to/" + "/a.png"), server.url("list.jsonl"), web=web)
    assert (report.added, report.failures) == (3, ())
    assert sink.uris() == {server.url("a.png"), server.url("to//a.png"), "mine"}
    assert run(sink, tmp_path, server.url("a.png"), web=web).unchanged == 1


def test_addresses_are_refused_unless_allowed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is an HTTP address; expected: --allow-http"):
        run(MemorySink(), tmp_path, server.url("a.png"), web=None)
    (tmp_path / "l.jsonl").write_text(json.dumps({"uri": server.url("a.png")}))
    report = run(MemorySink(), tmp_path, tmp_path / "l.jsonl", web=None)
    assert "--allow-http fetches it" in report.failures[0].reason
    report = run(MemorySink(), tmp_path, tmp_path / "l.jsonl", web=Web())
    assert report.failures[0].reason == "cannot be read: 127.0.0.1 has the address 127.0.0.1, which is not public"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "the server answers 404 Not Found"),
        ("big", "it has more than 4,000 bytes"),
        ("short", "5 bytes are missing at its end|IncompleteRead"),
        ("drip", "it takes more than 1 s|it takes too long"),
        ("to/file:///etc/passwd", "the server answers 302 Found.*not allowed"),
    ],
)
def test_limits(server: Server, path: str, reason: str) -> None:
    with pytest.raises(OSError, match=reason):
        Web(anywhere, limit_bytes=4000, limit_s=1.0).fetch(server.url(path))


def test_a_header_that_drips_through_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the header never ends, so only the limit of the whole can end it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path, "server").with_suffix(".crt")))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    done = threading.Event()

    def drip(listening: socket.socket) -> None:
        with contextlib.suppress(OSError), tls.wrap_socket(listening.accept()[0], server_side=True) as peer:
            while not done.wait(0.05):
                peer.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        try:
            with pytest.raises(OSError, match="it takes more than 1 s"):
                Web(anywhere, limit_s=1.0).fetch(f"https://127.0.0.1:{listening.getsockname()[1]}/a.png")
            assert not done.is_set()
        finally:
            done.set()
            thread.join()


def test_redirects_are_checked_too(server: Server) -> None:
    asked: list[str] = []

    def only_first(address: Address) -> bool:
        asked.append(str(address))
        return len(asked) == 1

    with pytest.raises(OSError, match="which is not allowed"):
        Web(only_first).fetch(server.url(f"to/{server.url('a.png')}"))
    assert asked == ["127.0.0.1"] * 2


@pytest.mark.parametrize("url", ["http://user:secret@host/a.png", "http:///a.png", "http://[::1/a.png"])
def test_addresses_that_name_no_place(url: str) -> None:
    with pytest.raises(OSError, match=r"has a user's name|has no host|Invalid IPv6"):
        Web().fetch(url)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        *((text, False) for text in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "0.0.0.0", "100.64.0.1")),
        *(
            (text, False)
            for text in ("224.0.0.1", "::1", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::")
        ),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public
