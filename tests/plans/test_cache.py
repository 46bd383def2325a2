"""The cache of plans: a place for each GPU and TensorRT, never half an entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from milvus_coop.bundle.folder import RECORD, Bundle
from milvus_coop.errors import PlanError
from milvus_coop.serving.plans import build_plans
from milvus_coop.serving.plans.compiler import Compiler, Plan


@dataclass(frozen=True)
class CountingCompiler(Compiler):
    """Makes plans of nothing, as TensorRT on a GPU would of a graph."""

    built: list[str] = field(default_factory=list)

    def compile(self, source: Path, graph: Any, profile: Any, *, timing_cache: Path | None = None) -> Plan:
        self.built.append(graph.name)
        return Plan(f"{graph.name} for {self.gpu}".encode(), layers=7, parse_s=0.1, build_s=0.2)


MakeRepository = Callable[[str], Path]


def compiler(gpu: str = "NVIDIA L4", tensorrt: str = "11.4.0.106") -> CountingCompiler:
    return CountingCompiler(SimpleNamespace(__name__="tensorrt", __version__=tensorrt), gpu, "8.9")


@pytest.fixture
def make_repository(bundle: Bundle, tmp_path: Path) -> MakeRepository:
    """Makes repositories for TensorRT, each as an export would leave it: without plans."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        for graph in bundle.spec.graphs:
            (folder / graph.name / "source").mkdir(parents=True)
            (folder / graph.name / "source" / "model.onnx").write_bytes(graph.name.encode())
        (folder / RECORD).write_text(bundle.spec.to_json())
        facts = {"platform": "tensorrt", "precision": "fp16", "bundle": bundle.spec.label, "fingerprint": bundle.spec.fingerprint}
        (folder / "repository.json").write_text(json.dumps(facts))
        return folder

    return make


def test_a_second_machine_builds_nothing(make_repository: MakeRepository, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = compiler(), compiler()
    built = build_plans(make_repository("one"), cache=cache, compiler=first)
    assert [plan.reason for plan in built] == ["there is no plan"] * 3
    taken = build_plans(make_repository("two"), cache=cache, compiler=second)
    assert (len(first.built), second.built) == (3, [])
    assert [(plan.reason, plan.layers, plan.path.read_bytes()) for plan in taken] == [
        (None, 7, plan.path.read_bytes()) for plan in built
    ]
    again = build_plans(tmp_path / "two", cache=cache, compiler=second)
    assert ([plan.reason for plan in again], second.built) == ([None] * 3, [])


def test_each_gpu_and_tensorrt_has_its_place(make_repository: MakeRepository, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    l4, h100, newer = compiler(), compiler("NVIDIA H100 80GB HBM3"), compiler(tensorrt="11.5.0.2")
    for position, each in enumerate((l4, h100, newer)):
        build_plans(make_repository(f"{position}"), cache=cache, compiler=each)
        assert len(each.built) == 3
    assert sorted(str(path.relative_to(cache)) for path in cache.glob("*/*")) == [
        "nvidia-h100-80gb-hbm3-8.9/tensorrt-11.4.0.106",
        "nvidia-l4-8.9/tensorrt-11.4.0.106",
        "nvidia-l4-8.9/tensorrt-11.5.0.2",
    ]
    (entry,) = cache.glob("nvidia-l4-8.9/tensorrt-11.5.0.2/cross_encoder-*")
    assert sorted(path.name for path in entry.iterdir()) == ["model.plan", "plan.json"]


@pytest.mark.parametrize("damage", ["short plan", "no record", "no plan"])
def test_a_damaged_entry_is_built_again(make_repository: MakeRepository, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    build_plans(make_repository("one"), cache=cache, compiler=compiler())
    (entry,) = cache.glob("*/*/text_encoder-*")
    if damage == "short plan":
        (entry / "model.plan").write_bytes(b"x")
    else:
        (entry / ("plan.json" if damage == "no record" else "model.plan")).unlink()
    second, third = compiler(), compiler()
    build_plans(make_repository("two"), cache=cache, compiler=second)
    assert second.built == ["text_encoder"]
    build_plans(make_repository("three"), cache=cache, compiler=third)
    assert third.built == []


def test_force_builds_in_spite_of_the_cache(make_repository: MakeRepository, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build_plans(make_repository("one"), cache=cache, compiler=compiler())
    again = compiler()
    build_plans(tmp_path / "one", cache=cache, force=True, compiler=again)
    assert len(again.built) == 3


def test_a_cache_that_cannot_be_written_to(make_repository: MakeRepository, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(PlanError, match=r"the cache .* cannot be written to: Not a directory; try: another --cache, or none"):
        build_plans(make_repository("one"), cache=tmp_path / "cache", compiler=compiler())
