"""The model repositories that are written: complete, self-contained, the weights on disk once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx
import onnxruntime
import pytest

from milvus_coop.bundle import GRAPHS, Bundle, load_bundle
from milvus_coop.bundle.wire import served_graph
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.triton import PLATFORMS, Platform, Tuning, export_repository
from milvus_coop.serving.triton.config import model_config


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("coop-small")


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


VERSION = load_bundle("coop-small").spec.served_version
EVERYWHERE = {"bundle.json", "repository.json", *(f"{graph}/config.pbtxt" for graph in GRAPHS)}
INSIDE: dict[Platform, set[str]] = {
    "python": {f"{graph}/{VERSION}/{name}" for graph in GRAPHS for name in ("model.py", f"{graph}.onnx", "weights.bin")},
    "onnxruntime": {f"{graph}/{VERSION}/{name}" for graph in GRAPHS for name in ("model.onnx", "weights.bin")},
    "tensorrt": {f"{graph}/source/model.onnx" for graph in GRAPHS},
}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_repository_is_complete(bundle: Bundle, tmp_path: Path, platform: Platform) -> None:
    out = export_repository(bundle, tmp_path / "models", platform)
    assert files(out) == EVERYWHERE | INSIDE[platform]
    for graph in bundle.spec.graphs:
        written = (out / graph.name / "config.pbtxt").read_text(encoding="utf-8")
        assert written == model_config(bundle.spec, graph, platform, Tuning())
        assert (out / graph.name / str(VERSION)).is_dir()
    facts = json.loads((out / "repository.json").read_text(encoding="utf-8"))
    assert facts == {
        "platform": platform,
        "precision": "fp16" if platform == "tensorrt" else "fp32",
        "bundle": bundle.spec.label,
        "fingerprint": bundle.spec.fingerprint,
    }


@pytest.mark.parametrize("platform", ["python", "onnxruntime"])
def test_the_weights_are_on_disk_once(bundle: Bundle, tmp_path: Path, platform: Platform) -> None:
    out = export_repository(bundle, tmp_path / "models", platform)
    if bundle.folder.stat().st_dev == tmp_path.stat().st_dev:
        assert {p.stat().st_ino for p in out.glob(f"*/{VERSION}/weights.bin")} == {bundle.path("weights.bin").stat().st_ino}
    own = {p.stat().st_ino: p.stat().st_size for p in out.rglob("*") if p.is_file()}
    assert sum(own.values()) < 1.1 * sum(f.n_bytes for f in bundle.spec.files.values())


@pytest.mark.parametrize("platform", ["python", "onnxruntime"])
def test_each_graph_loads_from_where_it_lies(bundle: Bundle, tmp_path: Path, platform: Platform) -> None:
    """Triton hands a backend one model's folder: nothing may lie outside it."""
    out = export_repository(bundle, tmp_path / "models", platform)
    for graph in bundle.spec.graphs:
        (path,) = (out / graph.name / str(VERSION)).glob("*.onnx")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [t.name for t in session.get_inputs()] == [t.name for t in served_graph(graph).inputs]
        assert {t.name for t in graph.outputs} <= {t.name for t in session.get_outputs()}


def test_gpu_graphs_are_plain(bundle: Bundle, tmp_path: Path) -> None:
    out = export_repository(bundle, tmp_path / "models", "onnxruntime", tuning=Tuning(gpu=True), precision="fp16")
    for graph in bundle.spec.graphs:
        model = onnx.load(str(out / graph.name / str(VERSION) / "model.onnx"))
        assert {node.domain for node in model.graph.node} == {""}
        assert [t.name for t in model.graph.input] == [t.name for t in served_graph(graph).inputs]
    assert json.loads((out / "repository.json").read_text(encoding="utf-8"))["precision"] == "fp16"


def test_an_earlier_export_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "models"
    out.mkdir()
    export_repository(bundle, out, "onnxruntime")
    export_repository(bundle, out, "python", tuning=Tuning(threads=2))
    assert files(out) == EVERYWHERE | INSIDE["python"]
    bundle.verify()  # what was removed were links: the bundle is whole


def test_plans_of_another_bundle_are_removed(bundle: Bundle, tmp_path: Path) -> None:
    """Those of the same bundle take long to build, and stay."""
    out = export_repository(bundle, tmp_path / "models", "tensorrt")
    plans = [out / graph / str(VERSION) / "model.plan" for graph in GRAPHS]
    for plan in plans:
        plan.touch()
    export_repository(bundle, out, "tensorrt")
    assert all(plan.is_file() for plan in plans)
    export_repository(other_version(bundle), out, "tensorrt")
    assert not any(plan.parent.exists() for plan in plans)
    assert files(out) == EVERYWHERE | INSIDE["tensorrt"]


def test_a_version_is_a_positive_number_of_64_bits_and_of_one_bundle(bundle: Bundle) -> None:
    others = [dataclasses.replace(bundle.spec, version=str(i)) for i in range(1000)]
    versions = {spec.served_version for spec in (bundle.spec, *others)}
    assert len(versions) == 1001
    assert 0 < min(versions) < max(versions) < 2**63


def other_version(bundle: Bundle) -> Bundle:
    return Bundle(bundle.folder, dataclasses.replace(bundle.spec, version="99"))


def test_other_files_are_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match="holds other files; expected: an empty folder, or an earlier export"):
        export_repository(bundle, tmp_path, "python")
    assert files(tmp_path) == {"thesis.txt"}
    with pytest.raises(InvalidArgumentError, match=r"thesis\.txt is a file"):
        export_repository(bundle, tmp_path / "thesis.txt", "python")


def test_an_unknown_platform(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="the platform is 'magic'; expected: one of tensorrt, onnxruntime, python"):
        export_repository(bundle, tmp_path / "models", "magic")  # type: ignore[arg-type]
    assert not (tmp_path / "models").exists()
