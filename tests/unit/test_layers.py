"""Imports flow one way, each foreign library has one home, and the package knows nothing of what lies beside it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import milvus_coop

PACKAGE = Path(milvus_coop.__file__).parent
LAYERS = {
    "errors": 0,
    "types": 0,
    "bundle": 1,
    "config": 1,
    "tokens": 2,
    "preprocess": 2,
    "backends": 2,
    "token_store": 2,
    "store": 3,
    "datasets": 3,
    "encoder": 3,
    "reranker": 3,
    "models": 4,
    "search": 5,
    "ingest": 5,
    "scoring": 5,
    "evaluation": 6,
    "gallery": 6,
    "integrations": 6,
    "export": 7,
    "convert": 8,
    "plans": 8,
    "triton": 9,
    "training": 9,
    "gateway": 9,
    "cli": 10,
    "__main__": 11,
}
HOMES = {
    "pymilvus": {"store"},
    "milvus_lite": {"store"},
    "grpc": {"store"},
    "fsspec": {"token_store"},
    "onnxruntime": {"backends", "export", "convert", "triton"},
    "accelerate": {"training"},
    "safetensors": {"training"},
    "tokenizers": {"preprocess", "convert", "training"},
    "huggingface_hub": {"convert"},
    "tritonclient": {"backends"},
    "tensorrt": {"plans"},
    "tensorrt_rtx": {"plans"},
    "onnx": {"export", "convert", "training"},
    "torch": {"export", "convert", "training"},
    "transformers": {"export", "convert", "training"},
    "matplotlib": {"evaluation"},
    "pydantic": {"gateway", "integrations"},
    "langchain_core": {"integrations"},
    "llama_index": {"integrations"},
    "haystack": {"integrations"},
    "rich": {"cli"},
    "click": {"cli"},
    "fastapi": {"gateway"},
    "starlette": {"gateway"},
    "uvicorn": {"gateway"},
    "prometheus_client": {"gateway"},
    "opentelemetry": {"gateway"},
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


def part_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py" or len(p.parts) > 1], ids=str)
def test_imports_only_from_the_left(path: Path) -> None:
    here = LAYERS[part_of(path)]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "milvus_coop" and len(parts) > 1 and parts[1] in LAYERS:
            there = LAYERS[parts[1]]
            assert there < here or parts[1] == part_of(path), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_foreign_libraries_stay_in_their_homes(path: Path) -> None:
    for name in imported(path):
        home = HOMES.get(name.split(".")[0])
        assert home is None or part_of(path) in home, f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_outside_the_wheel_is_imported(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] in BESIDE}


def test_every_module_has_a_layer() -> None:
    assert {part_of(p) for p in MODULES} - {"__init__"} == set(LAYERS)


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
