"""Loading graphs beside other work, and the memory that a loaded graph keeps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from milvus_coop import FakeBackend, load_bundle
from milvus_coop.bundle import TEXT_ENCODER
from milvus_coop.errors import BackendUnavailableError
from milvus_coop.models.backends.heap import _malloc_trim
from milvus_coop.models.open import loading

KEPT = """
import sys
from milvus_coop import load_bundle
from milvus_coop.models.backends import heap
from milvus_coop.models.backends.onnx import OnnxBackend

if sys.argv[1] == "keep":
    heap._malloc_trim = lambda: None

def private_mb():
    pages = [line.split() for line in open("/proc/self/smaps_rollup")]
    return sum(int(line[1]) for line in pages if line[0] in ("Private_Clean:", "Private_Dirty:")) / 1024

backend = OnnxBackend(load_bundle("coop-small"), threads=1)
before = private_mb()
backend.load(["text_encoder"])
print(private_mb() - before)
"""


class Slow(FakeBackend):
    """A backend whose `load` waits, and then fails if it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(load_bundle("coop-small").spec)
        self.go, self.loaded, self.error = threading.Event(), [""], error

    def load(self, graphs: Sequence[str]) -> None:
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        self.loaded = list(graphs)


def test_graphs_are_loaded_beside_the_block_and_are_there_after_it() -> None:
    backend = Slow()
    with loading(backend, (TEXT_ENCODER,)):
        assert backend.loaded == [""]
        backend.go.set()
    assert backend.loaded == [TEXT_ENCODER]


def test_only_the_error_of_the_block_is_raised() -> None:
    backend = Slow(BackendUnavailableError("the server is away"))
    backend.go.set()
    with loading(backend, (TEXT_ENCODER,)):
        pass
    with pytest.raises(KeyError), loading(backend, (TEXT_ENCODER,)):
        raise KeyError


@pytest.mark.skipif(sys.platform != "linux" or _malloc_trim() is None, reason="the memory is given back only where glibc is")
def test_memory_that_loading_freed_is_given_back() -> None:
    def kept_mb(what: str) -> float:
        run = subprocess.run([sys.executable, "-c", KEPT, what], check=True, capture_output=True, text=True)
        return float(run.stdout)

    weights_mb = 4 * 27_800_000 / 2**20  # of the text encoder, as float32
    assert kept_mb("give back") < kept_mb("keep") - weights_mb / 2
