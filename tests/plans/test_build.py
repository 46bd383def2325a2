"""Plans of a repository: built when due, with the reason; never without TensorRT and a GPU."""

from __future__ import annotations

import ctypes.util
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from milvus_coop.bundle import CROSS_ENCODER
from milvus_coop.bundle.folder import RECORD, Bundle
from milvus_coop.errors import BundleInvalidError, PlanError
from milvus_coop.serving.plans import build_plans
from milvus_coop.serving.plans.compiler import Compiler
from milvus_coop.serving.plans.gpu import Gpu
from milvus_coop.serving.plans.libraries import open_tensorrt
from milvus_coop.serving.plans.materialise import materialise
from milvus_coop.serving.plans.repository import read_repository

L4 = Gpu("NVIDIA L4", "8.9")
TIMINGS_DO_NOTHING_IN_RTX = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")


@pytest.fixture
def repository(bundle: Bundle, tmp_path: Path) -> Path:
    """A repository of one graph, the smallest; its bundle.json says so."""
    spec = dataclasses.replace(bundle.spec, graphs=(bundle.spec.graph(CROSS_ENCODER),))
    (tmp_path / RECORD).write_text(spec.to_json())
    facts = {"platform": "tensorrt", "precision": "fp16", "bundle": spec.label, "fingerprint": spec.fingerprint}
    (tmp_path / "repository.json").write_text(json.dumps(facts))
    materialise(bundle, CROSS_ENCODER, tmp_path / CROSS_ENCODER / "source" / "model.onnx", "fp16", joined=True)
    return tmp_path


def change_facts(repository: Path, **changes: str) -> None:
    path = repository / "repository.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is an NVIDIA driver")
def test_without_a_gpu(repository: Path) -> None:
    with pytest.raises(
        PlanError, match=r"no NVIDIA driver here.*expected: the machine with the GPU.*try: milvus-coop triton check-plans"
    ):
        build_plans(repository)
    assert not list((repository / CROSS_ENCODER).glob("*/model.plan"))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"package tensorrt cannot be imported.*try: pip install tensorrt$"):
        open_tensorrt(L4, folders=[tmp_path])
    for name in ("libnvinfer.so.9.9.9", "libnvinfer.so.11.2.1", "libnvinfer.so.11", "libnvinfer_plugin.so.11.2.1"):
        (tmp_path / name).touch()
    with pytest.raises(PlanError, match=r"try: pip install 'tensorrt==11\.2\.1\.\*'$"):
        open_tensorrt(L4, folders=[tmp_path])


def test_another_tensorrt_than_the_one_of_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__name__="tensorrt", __version__="11.4.0.106"))
    assert open_tensorrt(L4, folders=[tmp_path]).version == "tensorrt 11.4.0.106"
    (tmp_path / "libnvinfer.so.11.4.0").touch()
    assert open_tensorrt(L4, folders=[tmp_path]).gpu == "NVIDIA L4"
    (tmp_path / "libnvinfer.so.11.4.0").rename(tmp_path / "libnvinfer.so.11.2.1")
    with pytest.raises(PlanError, match=r"Python has TensorRT 11\.4\.0\.106; expected: 11\.2\.1, .*try: pip install"):
        open_tensorrt(L4, folders=[tmp_path])


@pytest.mark.tensorrt
@TIMINGS_DO_NOTHING_IN_RTX
def test_a_plan_is_built_once(repository: Path, rtx: Compiler) -> None:
    told: list[str] = []
    [first] = build_plans(repository, compiler=rtx, on_progress=told.append)
    assert first.reason == "there is no plan"
    assert first.path == repository / CROSS_ENCODER / str(read_repository(repository).spec.served_version) / "model.plan"
    assert first.path.stat().st_size == first.plan_bytes
    assert sorted(path.name for path in first.path.parent.iterdir()) == ["model.plan", "plan.json"]
    assert (repository / "timing.cache").is_file()
    [again] = build_plans(repository, compiler=rtx, on_progress=told.append)
    assert again == dataclasses.replace(first, reason=None)
    assert told == ["cross_encoder: building, since there is no plan", "cross_encoder: up to date"]
    [forced] = build_plans(repository, compiler=rtx, force=True)
    assert forced.reason == "asked to"


@pytest.mark.tensorrt
@TIMINGS_DO_NOTHING_IN_RTX
def test_a_plan_is_built_again_when_it_no_longer_fits(repository: Path, rtx: Compiler, bundle: Bundle) -> None:
    def reason(compiler: Compiler) -> str:
        [built] = build_plans(repository, compiler=compiler)
        return str(built.reason)

    assert reason(rtx) == "there is no plan"
    assert reason(dataclasses.replace(rtx, gpu="NVIDIA L4")) == "GPU was any, is NVIDIA L4"
    materialise(bundle, CROSS_ENCODER, repository / CROSS_ENCODER / "source" / "model.onnx", "fp32", joined=True)
    assert reason(rtx).startswith("graph was ")
    change_facts(repository, precision="fp32")
    assert reason(rtx) == "precision was fp16, is fp32"
    assert reason(rtx) == "None"


def test_building_needs_neither_onnx_nor_torch() -> None:
    """The Triton image has neither."""
    heavy = ("onnx", "onnxruntime", "torch", "tensorrt")
    probe = f"import milvus_coop.serving.plans, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"is no repository .*expected: a folder with repository.json and bundle.json"):
        read_repository(tmp_path)
    (tmp_path / "repository.json").write_text("[]")
    with pytest.raises(PlanError, match="is no repository"):
        read_repository(tmp_path)


def test_a_repository_for_something_else(repository: Path) -> None:
    change_facts(repository, platform="python")
    with pytest.raises(PlanError, match="is a repository for python; expected: one for tensorrt"):
        read_repository(repository)


def test_two_bundles_mixed_up(repository: Path) -> None:
    change_facts(repository, fingerprint="0" * 32)
    with pytest.raises(PlanError, match=r"repository\.json and bundle\.json are of different bundles"):
        read_repository(repository)


def test_a_source_is_missing(repository: Path) -> None:
    (repository / CROSS_ENCODER / "source" / "model.onnx").unlink()
    with pytest.raises(PlanError, match=r"model\.onnx is missing"):
        read_repository(repository)


def test_a_broken_spec(repository: Path) -> None:
    (repository / RECORD).write_text("{}")
    with pytest.raises(BundleInvalidError, match=RECORD):
        read_repository(repository)
