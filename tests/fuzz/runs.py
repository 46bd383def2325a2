"""The two lengths of a run, and how a property is tried on generated inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from milvus_coop.errors import MilvusCoopError

Value = TypeVar("Value")

LONGEST_MESSAGE = 1000
"""Maximum number of characters of a message, whatever was given."""


def lengths(short: int, long: int) -> pytest.MarkDecorator:
    """Run a test with a small number of inputs, the same each time, and with a large number of other ones (`more`)."""
    return pytest.mark.parametrize(
        "inputs",
        [pytest.param(short, id="short"), pytest.param(long, id="long", marks=(pytest.mark.more, pytest.mark.timeout(900)))],
    )


def holds(rule: Callable[[Value], None], values: SearchStrategy[Value], inputs: int) -> None:
    """Try a rule on generated values. A value that breaks it is made smaller and shown."""

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=inputs < 1000,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(values)
    def tried(value: Value) -> None:
        rule(value)

    tried()


def check_message(error: MilvusCoopError) -> None:
    """Check that a message is no longer than people read, and can be written."""
    assert 0 < len(str(error)) <= LONGEST_MESSAGE
    str(error).encode()
