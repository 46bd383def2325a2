"""Fixtures for every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

collect_ignore = [] if "MILVUS_COOP_FAULT_RUNS" in os.environ else ["integration/test_ray_faults.py"]
"""The faults on Ray need two quiet cores for six minutes; they run if the variable says how often."""

pytest_plugins = ["tests.leftovers", "tests.servers.milvus", "tests.servers.s3", "tests.servers.triton"]


MORE = (
    "campaign/test_scenarios.py",
    "contract/test_store_rows.py",
    "contract/test_store_scale.py",
    "convert/test_convert_cli.py",
    "convert/test_families.py",
    "convert/test_published.py::test_it_converts",
    "evaluation/test_evaluate.py",
    "fuzz/test_bundles.py",
    "helm/test_commands.py",
    "integration/test_growth_benchmark.py",
    "integration/test_ray",
    "integration/test_triton_failures.py",
    "integration/test_triton_server.py",
    "integration/test_worker.py",
    "test_readme.py::test_commands[docs/evaluation.md]",
    "test_readme.py::test_commands[docs/pretrained.md]",
    "test_readme.py::test_commands[docs/training.md]",
    "test_readme.py::test_commands[docs/triton.md]",
    "training/",
)
"""Trainings, conversions and long runs with faults: `make test-more` runs them, and `make test` does not."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose name below tests/ starts with one of `MORE`."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests):
            name = f"{item.path.relative_to(tests).as_posix()}::{item.nodeid.partition('::')[2]}"
            if name.startswith(MORE):
                item.add_marker(pytest.mark.more)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the developer's shell reaches a test, and no connection to an object store of another test."""
    for name in os.environ:
        if name.startswith(("MILVUS_", "HF_", "TRITON_")):
            monkeypatch.delenv(name)
    yield
    if (s3fs := sys.modules.get("s3fs")) is not None:
        s3fs.S3FileSystem.clear_instance_cache()
