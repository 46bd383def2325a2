"""Calls are repeated through an outage, and not for errors that stay."""

from __future__ import annotations

import errno
import time

import pytest

from milvus_coop.elsewhere.outages import may_pass, patiently


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which take no time."""
    pauses: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return pauses


def test_errors_that_may_pass() -> None:
    assert all(map(may_pass, (ConnectionResetError(), TimeoutError(), OSError(errno.ESTALE, "stale"))))
    assert not any(map(may_pass, (FileNotFoundError(), PermissionError(), OSError("damaged"), ValueError())))


def test_a_call_is_repeated_until_it_works(slept: list[float]) -> None:
    results = iter((ConnectionError("lost"), ConnectionError("lost"), "found"))

    def call() -> str:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    assert patiently(call) == "found"
    assert slept == [1, 2]


def test_an_error_that_stays_is_raised_at_once(slept: list[float]) -> None:
    def call() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        patiently(call)
    assert slept == []


def test_patience_ends(slept: list[float]) -> None:
    def call() -> None:
        raise ConnectionError("lost")

    with pytest.raises(ConnectionError):
        patiently(call, patience_s=100)
    assert slept == [1, 2, 4, 8, 16, 30, 30]
    assert patiently(lambda: "bad", again=lambda result: result == "bad", patience_s=2) == "bad"
