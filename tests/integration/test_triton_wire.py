"""What really goes to Triton for a query: counted between the client and the server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from milvus_coop.bundle import CROSS_ENCODER, IMAGE_TOKEN_SCALES, IMAGE_TOKENS, load_bundle
from milvus_coop.bundle.folder import TOKENIZER
from milvus_coop.config import Settings
from milvus_coop.models.backends import Backend, open_backend
from milvus_coop.models.encoder import BundleEncoder
from milvus_coop.models.preprocess.texts import Tokenizer
from milvus_coop.models.reranker import Reranker
from milvus_coop.types import Array
from tests.servers.triton import TritonForTests

pytestmark = pytest.mark.triton

TEXTS = [
    "two dogs playing on a sandy beach",
    "a red apple",
    "an old stone bridge over a small river in autumn, and a boat below it",
]


class CountingProxy:
    """Forwards TCP connections and counts the bytes that clients send."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while content := source.recv(2**16):
                self.sent += len(content) if counts else 0
                target.sendall(content)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def proxy(triton_server: TritonForTests) -> Iterator[CountingProxy]:
    proxy = CountingProxy(triton_server.endpoints.grpc)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def backend(proxy: CountingProxy) -> Iterator[Backend]:
    backend = open_backend(Settings(models=f"triton://127.0.0.1:{proxy.port}"), load_bundle("coop-small"))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def local() -> Iterator[Backend]:
    backend = open_backend(Settings(), load_bundle("coop-small"))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def texts(local: Backend) -> list[dict[str, Array]]:
    """The text side of each text alone, and of all together."""
    bundle = load_bundle("coop-small")
    encoder = BundleEncoder(local, Tokenizer(bundle.path(TOKENIZER), bundle.spec.text))
    return [dict(encoder.encode_texts(some).text_side) for some in (*([text] for text in TEXTS), TEXTS)]


def image_side(n: int, seed: int = 0) -> dict[str, Array]:
    tokens, rng = load_bundle("coop-small").spec.tokens, np.random.default_rng(seed)
    values = rng.integers(-127, 128, (n, tokens.count, tokens.dim), dtype=np.int8)
    return {IMAGE_TOKENS: values, IMAGE_TOKEN_SCALES: (rng.random((n, tokens.count)) / 64).astype(np.float16)}


def test_the_text_goes_once_with_all_candidates(proxy: CountingProxy, backend: Backend, texts: list[dict[str, Array]]) -> None:
    """The floor is 2,450 bytes per candidate: 25 tokens of 96 bytes, and 25 scales. The mask takes 16."""
    sent = {}
    backend.load([CROSS_ENCODER])
    for n in (64, 256):
        before = proxy.sent
        Reranker(backend).score_pairs(texts[0], image_side(n))
        sent[n] = proxy.sent - before
    assert 2_450 < (sent[256] - sent[64]) / 192 < 2_500
    assert sent[64] / 64 < 2_650


def test_both_directions_at_once_have_the_scores_in_process(
    backend: Backend, local: Backend, texts: list[dict[str, Array]]
) -> None:
    """The server joins requests with different numbers of pairs, and with one or many texts."""
    one_text = [(texts[i % 3], image_side(1 + i % 7, i)) for i in range(24)]
    many_texts = [(texts[3], image_side(1 + i % 2 * 2, i)) for i in range(12)]
    requests = [*one_text, *many_texts]
    expected = [Reranker(local).score_pairs(*sides).probability for sides in requests]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda sides: Reranker(backend).score_pairs(*sides, timeout_s=60).probability, requests[::-1]))
    for ours, theirs in zip(found[::-1], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
