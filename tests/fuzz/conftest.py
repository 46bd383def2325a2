"""Each test of this folder reports how many inputs it tried, and stays within the bounds of `tests.fuzz.runs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.fuzz.runs import MAX_GROWTH_MB, peak_mb, ran

NAME = "fuzz"


@pytest.fixture(autouse=True)
def bounds(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Report the inputs of a test, and check what memory they took."""
    ran.inputs, ran.slowest_s = 0, 0.0
    before = peak_mb()
    yield
    growth = peak_mb() - before
    if ran.inputs:
        record_property(NAME, f"{ran.inputs:,} inputs, the slowest {ran.slowest_s:.2f} s, peak memory + {growth:.0f} MB")
    assert growth < MAX_GROWTH_MB


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what each test tried."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == NAME and report.when == "teardown":
                    terminalreporter.write_line(f"{report.nodeid}: {value}")
