"""Writes a complete Triton model repository from a bundle."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Literal

from milvus_coop.bundle.folder import RECORD, WEIGHTS, Bundle
from milvus_coop.bundle.spec import GraphSpec
from milvus_coop.bundle.wire import wire_of
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.serving.plans.repository import MARK
from milvus_coop.serving.triton.config import PLATFORMS, Platform, Tuning, model_config

KEPT = {"model.plan", "plan.json", "timing.cache"}
"""Files that a new export keeps. Plans take long to build, and `build_plans` checks whether they are up to date."""
MODEL_FILE = Path(__file__).with_name("python_model.py")

Precision = Literal["fp32", "fp16"]


def export_repository(
    bundle: Bundle, out: Path, platform: Platform, *, tuning: Tuning | None = None, precision: Precision = "fp16"
) -> Path:
    """Write the three models of a bundle for one of Triton's ways to run them.

    With `python` and `onnxruntime`, the repository is ready to serve; `onnxruntime` needs Triton's ONNX Runtime backend. With
    `tensorrt`, it holds the sources of the plans. `milvus-coop triton build-plans` builds them on the GPU that runs them.

    Args:
        bundle: the bundle to serve.
        out: a folder that is empty or does not exist, or an earlier export, which is replaced.
        platform: `tensorrt`, `onnxruntime` or `python`.
        tuning: instances, threads and queue; default `Tuning()`.
        precision: precision of the graphs that run on GPUs. On CPUs it is always fp32.

    Returns:
        `out`.

    Raises:
        InvalidArgumentError: the platform is unknown, or the folder holds other files.
        ExportError: the graphs need packages that are not installed.
    """
    if platform not in PLATFORMS:
        raise InvalidArgumentError(f"the platform is '{platform}'", expected=f"one of {', '.join(PLATFORMS)}")
    tuning = tuning or Tuning()
    _make_room(out, str(bundle.spec.served_version))
    for graph in bundle.spec.graphs:
        folder = out / graph.name / str(bundle.spec.served_version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "config.pbtxt").write_text(model_config(bundle.spec, graph, platform, tuning), encoding="utf-8")
        _write_graph(bundle, graph, folder, platform, tuning, precision)
    shutil.copyfile(bundle.path(RECORD), out / RECORD)
    on_gpu = platform == "tensorrt" or tuning.gpu
    facts = {
        "platform": platform,
        "precision": precision if on_gpu else "fp32",
        "bundle": bundle.spec.label,
        "fingerprint": bundle.spec.fingerprint,
    }
    (out / MARK).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return out


def _make_room(out: Path, version: str) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidArgumentError(f"{out} is a file", expected="a folder to write the repository to")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise InvalidArgumentError(f"{out} holds other files", expected="an empty folder, or an earlier export")
        for folder in (path for path in out.glob("*/*") if path.is_dir() and path.name != version):  # of another bundle
            shutil.rmtree(folder)
        for path in out.rglob("*"):
            if path.is_file() and path.name not in KEPT:
                path.unlink()
    out.mkdir(parents=True, exist_ok=True)


def _write_graph(bundle: Bundle, graph: GraphSpec, folder: Path, platform: Platform, tuning: Tuning, precision: Precision) -> None:
    if platform == "python":
        shutil.copyfile(MODEL_FILE, folder / "model.py")
        _write_packed(bundle, graph, folder, graph.file)
    elif platform == "onnxruntime" and not tuning.gpu:
        _write_packed(bundle, graph, folder, "model.onnx")
    else:
        from milvus_coop.serving.plans.materialise import materialise

        target = folder if platform == "onnxruntime" else folder.parent / "source"
        target.mkdir(exist_ok=True)
        materialise(bundle, graph.name, target / "model.onnx", precision, joined=True)


def _write_packed(bundle: Bundle, graph: GraphSpec, folder: Path, name: str) -> None:
    """Put the bundle's own files into a folder. They are linked and not copied if the file system supports it.

    A graph whose inputs travel in another form is written anew; its weights are linked too.
    """
    wire = wire_of(graph)
    if wire is None:
        _link(bundle.path(graph.file), folder / name)
    else:
        from milvus_coop.serving.plans.joined import write_joined

        write_joined(bundle.path(graph.file), folder / name, wire)
    if bundle.path(WEIGHTS).exists():
        _link(bundle.path(WEIGHTS), folder / WEIGHTS)


def _link(source: Path, target: Path) -> None:
    # Hard links are used because ONNX Runtime refuses weights behind a symbolic link to another folder.
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
