"""The NVIDIA GPU that this process would use. The driver itself is asked, so no CUDA package is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from milvus_coop.errors import PlanError

DRIVER = "libcuda.so.1"

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    compute_capability: str
    """Compute capability, for example `8.9`."""


def find_gpu(driver: Any = None) -> Gpu:
    """The GPU to build for. `CUDA_VISIBLE_DEVICES` selects it, as for every CUDA program.

    Args:
        driver: a loaded CUDA driver library; None means to load it.

    Raises:
        PlanError: there is no driver or no GPU, or there are different kinds of GPUs, which would need different plans.
    """
    if driver is None:
        driver = _load_driver()
    _call(driver, "cuInit", 0)
    count = ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    gpus = [_describe(driver, ordinal) for ordinal in range(count.value)]
    if not gpus:
        raise PlanError("the NVIDIA driver shows no GPU", run="nvidia-smi; echo $CUDA_VISIBLE_DEVICES")
    if len(set(gpus)) > 1:
        names = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus)
        raise PlanError(f"this machine has different GPUs: {names}", expected="one kind", run="export CUDA_VISIBLE_DEVICES=0")
    return gpus[0]


def _load_driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(DRIVER)
    except OSError as exc:
        raise PlanError(
            f"no NVIDIA driver here ({exc})",
            expected="the machine with the GPU that will serve the plans",
            run="milvus-coop triton check-plans, which needs no GPU",
        ) from exc


def _describe(driver: Any, ordinal: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(driver, "cuDeviceGet", ctypes.byref(device), ordinal)
    _call(driver, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    return Gpu(name.value.decode(), f"{major.value}.{minor.value}")


def _call(driver: Any, function: str, *arguments: Any) -> None:
    if status := getattr(driver, function)(*arguments):
        raise PlanError(f"the NVIDIA driver failed: {function} returned {status}", run="nvidia-smi")
