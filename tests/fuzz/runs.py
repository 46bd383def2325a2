"""The two lengths of a run, and how a property is tried on generated inputs: within a stated time, and in a stated memory."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from milvus_coop.errors import MilvusCoopError

Value = TypeVar("Value")

LONGEST_MESSAGE = 1000
"""Maximum number of characters of a message, whatever was given."""
FULL = os.environ.get("MILVUS_COOP_FUZZ") == "full"
"""If true, long runs have their whole length, and each run tries other inputs."""
PART = 4
"""Otherwise, the part of it that long runs have."""
MAX_SECONDS = 30.0
"""Maximum time of one input. Any input takes far less than a second, unless other programs use all cores."""
MAX_GROWTH_MB = 512
"""Maximum growth of the process' peak memory during all inputs of a test, models and Milvus Lite included."""


@dataclass(slots=True)
class Ran:
    """What a test has tried so far."""

    inputs: int = 0
    slowest_s: float = 0.0


ran = Ran()
"""The count of the test that runs. `tests/fuzz/conftest.py` resets and reports it."""


def lengths(short: int, long: int) -> pytest.MarkDecorator:
    """Run a test with a small number of inputs, and with a large one (`more`), which MILVUS_COOP_FUZZ=full makes larger."""
    long = long if FULL else max(short, long // PART)
    return pytest.mark.parametrize(
        "inputs",
        [pytest.param(short, id="short"), pytest.param(long, id="long", marks=(pytest.mark.more, pytest.mark.timeout(1800)))],
    )


def holds(rule: Callable[[Value], None], values: SearchStrategy[Value], inputs: int) -> None:
    """Try a rule on generated values. A value that breaks it, or takes more than `MAX_SECONDS`, is made smaller and shown."""

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=not FULL,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(values)
    def tried(value: Value) -> None:
        start = time.monotonic()
        rule(value)
        ran.inputs += 1
        ran.slowest_s = max(ran.slowest_s, seconds := time.monotonic() - start)
        assert seconds < MAX_SECONDS

    tried()


def peak_mb() -> float:
    """The largest memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check_message(error: MilvusCoopError) -> None:
    """Check that a message is no longer than people read, and can be written."""
    assert 0 < len(str(error)) <= LONGEST_MESSAGE
    str(error).encode()
