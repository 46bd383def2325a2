"""The log of a Triton server: each error is told once, and the file does not grow for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milvus_coop.serving.triton import log
from milvus_coop.serving.triton.log import ServerLog


@pytest.fixture
def written() -> Iterator[ServerLog]:
    made = ServerLog()
    yield made
    made.remove()
    made.remove()
    assert not made.path.exists()


def write(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_each_error_is_told_once(written: ServerLog) -> None:
    write(written.path, "E1127 before\nI1127 fine\n")
    written.skip()
    assert written.new_errors() == []
    write(written.path, "I1127 fine\nE1127 first\nE1127 not yet at its")
    assert written.new_errors() == ["E1127 first"]
    write(written.path, " end\nE1127 CudaDriverHelper has not been initialized\n")
    assert written.new_errors() == ["E1127 not yet at its end"]
    assert written.new_errors() == []
    assert written.problems() == ["E1127 before", "E1127 first", "E1127 not yet at its end"]


def test_without_errors_the_last_lines_tell(written: ServerLog) -> None:
    write(written.path, "".join(f"I1127 line {i}\n" for i in range(9)))
    assert written.problems() == [f"I1127 line {i}" for i in range(4, 9)]


def test_a_large_log_is_emptied(written: ServerLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LONGEST", 1000)
    monkeypatch.setattr(log, "LAST_BYTES", 100)
    with written.path.open("ab", buffering=0) as server:  # it appends, as the server does
        for i in range(50):
            server.write(b"I1127 verbose\n" * 20 + f"E1127 error {i}\n".encode())
            assert written.new_errors() == [f"E1127 error {i}"]
            assert written.path.stat().st_size <= 1400
            assert len(written.problems()) <= 7
