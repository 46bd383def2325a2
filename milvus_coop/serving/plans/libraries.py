"""Opens the TensorRT libraries: TensorRT for the GPU of this machine, TensorRT-RTX for any GPU."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milvus_coop.errors import PlanError
from milvus_coop.serving.plans.compiler import Compiler
from milvus_coop.serving.plans.gpu import Gpu, find_gpu

LIBRARY_FOLDERS = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib64"))
"""Folders in which Debian and Red Hat packages install TensorRT; the Triton images use these packages."""

TARGET = "SM89"
"""Default compute capability of checks: Ada, such as an L4 or an RTX 40."""


def open_tensorrt(gpu: Gpu | None = None, *, folders: Sequence[Path] = LIBRARY_FOLDERS) -> Compiler:
    """TensorRT, for the GPU of this machine.

    Args:
        gpu: the GPU to build for; None means to ask the driver.
        folders: folders of the machine's own TensorRT, which Triton uses. Triton cannot load plans of another version.

    Raises:
        PlanError: TensorRT is not installed for Python, its version differs from the machine's own, or there is no GPU.
    """
    gpu = gpu or find_gpu()
    own = library_versions(folders)
    remedy = f"pip install 'tensorrt=={own[-1]}.*'" if own else "pip install tensorrt"
    trt = _import("tensorrt", remedy)
    if own and not any(f"{trt.__version__}.".startswith(f"{version}.") for version in own):
        raise PlanError(
            f"Python has TensorRT {trt.__version__}",
            expected=f"{own[-1]}, which is on this machine and loads the plans",
            run=remedy,
        )
    return Compiler(trt, gpu.name, gpu.compute_capability)


def library_versions(folders: Sequence[Path]) -> list[str]:
    """Versions of TensorRT in these folders, lowest first. They are the numbers in names such as `libnvinfer.so.11.2.1`."""
    names = {path.name for folder in folders for path in folder.glob("libnvinfer.so.*.*.*")}
    return sorted((name.removeprefix("libnvinfer.so.") for name in names), key=lambda v: tuple(map(int, v.split("."))))


def open_tensorrt_rtx(target: str = TARGET) -> Compiler:
    """TensorRT-RTX, for a GPU that this machine need not have.

    Args:
        target: compute capability, `SM75` to `SM121`.

    Raises:
        PlanError: TensorRT-RTX is not installed, or does not support the target.
    """
    trt = _import("tensorrt_rtx", "pip install tensorrt-rtx-cu12")
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if target not in known:
        raise PlanError(f"no compute capability '{target}'", expected=f"one of {', '.join(known)}")
    return Compiler(trt, "any", target, getattr(trt.ComputeCapability, target))


def _import(name: str, remedy: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as exc:  # OSError: a library that the bindings load is missing
        raise PlanError(f"the Python package {name} cannot be imported ({exc})", run=remedy) from exc
