"""Imports flow one way, each foreign library has one home, and the package knows nothing of what lies beside it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import milvus_coop

PACKAGE = Path(milvus_coop.__file__).parent
LAYERS = (
    ("errors", "types", "printable"),
    ("arguments", "deadline"),
    ("cores", "records"),
    ("config", "certificates"),
    ("servers",),
    ("bundle",),
    ("models.tokens", "models.text_memory", "models.preprocess", "models.backends"),
    ("elsewhere",),
    ("store.token_store",),
    ("models.encoder", "models.reranker", "models.text_states", "store"),
    ("models.remote",),
    ("models.open",),
    ("models.scoring", "search", "ingest"),
    ("serving.gallery", "serving.integrations", "serving.plans"),
    ("serving.triton", "serving.gateway"),
    ("offline.datasets", "offline.export"),
    ("offline.evaluation", "offline.convert", "offline.training"),
    ("cli",),
    ("__main__",),
)
"""Parts of the package; a part imports from lines above its own only."""
HOMES = {
    "pymilvus": {"store"},
    "milvus_lite": {"store"},
    "grpc": {"store"},
    "fsspec": {"elsewhere"},
    "pyarrow": {"store", "ingest"},
    "ray": {"ingest"},
    "onnxruntime": {"models.backends", "offline.export", "offline.convert", "serving.triton"},
    "msgspec": {"records", "bundle", "offline.training"},
    "accelerate": {"offline.training"},
    "safetensors": {"offline.training", "offline.convert"},
    "tokenizers": {"models.preprocess", "offline.convert", "offline.training"},
    "huggingface_hub": {"offline.convert"},
    "tritonclient": {"models.backends", "serving.triton"},
    "google": {"bundle", "serving.triton"},
    "tensorrt": {"serving.plans"},
    "tensorrt_rtx": {"serving.plans"},
    "onnx": {"serving.plans", "offline.export", "offline.convert", "offline.training"},
    "torch": {"offline.export", "offline.convert", "offline.training"},
    "transformers": {"offline.export", "offline.convert", "offline.training"},
    "matplotlib": {"offline.evaluation"},
    "pydantic": {"serving.gateway", "serving.integrations"},
    "langchain_core": {"serving.integrations"},
    "llama_index": {"serving.integrations"},
    "haystack": {"serving.integrations"},
    "rich": {"cli"},
    "click": {"cli"},
    "fastapi": {"serving.gateway"},
    "starlette": {"serving.gateway"},
    "uvicorn": {"serving.gateway"},
    "prometheus_client": {"serving.gateway", "ingest"},
    "opentelemetry": {"serving.gateway"},
}
BESIDE = {"recipes", "tests", "benchmarks"}
"""Python that the wheel does not hold."""
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "milvus_coop"}
    return names


PARTS = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def part_of(name: str) -> str | None:
    """The part that a module of the package belongs to: the longest that its name starts with."""
    inside = name.removeprefix("milvus_coop.")
    found = [part for part in PARTS if inside == part or inside.startswith(f"{part}.")]
    return max(found, key=len, default=None)


def named(path: Path) -> str:
    """The full name of a module."""
    return ".".join(("milvus_coop", *path.with_suffix("").parts)).removesuffix(".__init__")


IMPORTS = [(path, name) for path in MODULES for name in sorted(imported(path))]


def goes_up(path: Path, name: str) -> bool:
    """True if a module imports from a part that does not stand above its own."""
    here, there = part_of(named(path)), part_of(name) if name.startswith("milvus_coop.") else None
    return here is not None and there is not None and here != there and PARTS[there] >= PARTS[here]


def test_imports_only_from_above() -> None:
    assert [f"{path} imports {name}" for path, name in IMPORTS if goes_up(path, name)] == []


def test_no_package_imports_itself_through_others() -> None:
    """Parts of two packages may stand on any lines; the packages themselves also import in one direction only."""
    packages = {path.parts[0].removesuffix(".py") for path in MODULES} - {"__init__", "__main__"}
    graph: dict[str, set[str]] = {package: set() for package in packages}
    for path, name in IMPORTS:
        here, there = path.parts[0].removesuffix(".py"), name.removeprefix("milvus_coop.").split(".")[0]
        if name.startswith("milvus_coop.") and here in graph and there in graph and here != there:
            graph[here].add(there)
    assert list(TopologicalSorter(graph).static_order())


def test_foreign_libraries_stay_in_their_homes() -> None:
    homes = [(path, name, HOMES.get(name.split(".")[0])) for path, name in IMPORTS]
    assert [f"{path} imports {name}" for path, name, home in homes if home is not None and part_of(named(path)) not in home] == []


def test_nothing_outside_the_wheel_is_imported() -> None:
    assert [f"{path} imports {name}" for path, name in IMPORTS if name.split(".")[0] in BESIDE] == []


def test_every_module_has_a_part() -> None:
    wings = {"__init__.py", "models/__init__.py", "serving/__init__.py", "offline/__init__.py"}
    assert [str(path) for path in MODULES if part_of(named(path)) is None] == sorted(wings)


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES}, key=str), ids=str)
def test_a_package_that_lists_its_modules_lists_all_of_them(package: Path) -> None:
    """The docstring of a package is the map for newcomers. Small packages, and those of one module per kind of thing, have none."""
    modules = {
        path.stem if path.parent == package else path.parts[len(package.parts)] for path in MODULES if path.is_relative_to(package)
    }
    modules -= {"__init__", "__main__"}
    words = set(
        re.findall(r"\w+", ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text(encoding="utf-8"))) or "")
    )
    if len(modules & words) > len(modules) / 2:
        assert modules - words == set()


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import milvus_coop", ["torch", "transformers", "onnxruntime", "pymilvus", "numpy", "rich"]),
        ("import milvus_coop.cli.main", ["torch", "transformers", "onnxruntime", "pymilvus", "numpy", "rich"]),
        ("import milvus_coop.cli.families", ["torch", "transformers"]),
        ("from milvus_coop import CoopSearch, CoopIngest", ["torch", "transformers", "tritonclient"]),
        ("from milvus_coop import CoopModel", ["torch", "transformers", "tritonclient", "pymilvus"]),
    ],
)
def test_imports_stay_light(code: str, forbidden: list[str]) -> None:
    probe = f"{code}; import sys; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_leaves_the_logs_of_others_alone() -> None:
    probe = "import logging, milvus_coop.store; print([n for n in ('pymilvus', 'milvus_lite') if logging.getLogger(n).level])"
    before = probe.replace("milvus_coop.store", "pymilvus, milvus_lite")
    levels = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for code in (probe, before)]
    assert levels[0].stdout == levels[1].stdout
