"""What the package imports is declared in pyproject.toml, where a user needs it: as a dependency, or in the extra of that part."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import files, packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.lowest import requirements
from tests.unit.test_layers import MODULES, imported, named

EXTRAS = {
    "milvus_coop.models.preprocess.formats": ("heif",),
    "milvus_coop.models.backends.triton": ("triton",),
    "milvus_coop.ingest.cluster": ("ray",),
    "milvus_coop.ingest.metrics": ("serve",),
    "milvus_coop.serving.triton": ("triton",),
    "milvus_coop.serving.plans": ("triton",),
    "milvus_coop.serving.gateway": ("serve", "trace"),
    "milvus_coop.serving.integrations.langchain": ("langchain",),
    "milvus_coop.serving.integrations.llama_index": ("llama-index",),
    "milvus_coop.serving.integrations.haystack": ("haystack",),
    "milvus_coop.offline.evaluation": ("eval",),
    "milvus_coop.offline": ("train",),
}
"""The extras that a part may use beside the package's own dependencies."""
ELSEWHERE = {"tensorrt", "tensorrt_rtx", "triton_python_backend_utils"}
"""Come with NVIDIA's images, or with Triton."""
DISTRIBUTIONS = packages_distributions()


@cache
def owned(distribution: str) -> frozenset[str]:
    """The files of a distribution."""
    return frozenset(Path(file).as_posix() for file in files(distribution) or ())


def origins(name: str) -> set[str]:
    """The distributions that a module can come from; of those that share a namespace, the one with its file.

    A module that is not installed is taken to come from the distribution of its name.
    """
    top = name.split(".")[0]
    found = set(DISTRIBUTIONS.get(top, (top,)))
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        if len(found) > 1 and (exact := {d for d in found if owned(d) & {f"{path}.py", f"{path}/__init__.py"}}):
            return exact
    return found


def undeclared(path: Path) -> Iterator[str]:
    """The imports of a module that come from no declared distribution."""
    extras = next((extras for part, extras in EXTRAS.items() if f"{named(path)}.".startswith(f"{part}.")), ())
    declared = {canonicalize_name(requirement.name) for requirement in requirements(extras)}
    known = sys.stdlib_module_names | ELSEWHERE | {"milvus_coop"}
    for name in imported(path):
        if name.split(".")[0] not in known and not {canonicalize_name(origin) for origin in origins(name)} & declared:
            yield f"{path} imports {name}"


def test_what_is_imported_is_declared() -> None:
    assert [line for path in MODULES for line in undeclared(path)] == []
