"""What the driver is asked, against a driver written here."""

from __future__ import annotations

from typing import Any

import pytest

from milvus_coop.errors import PlanError
from milvus_coop.serving.plans.gpu import Gpu, find_gpu


class Driver:
    """The five functions of libcuda that are used; arguments by reference are written through ctypes as the real one does."""

    def __init__(self, *gpus: tuple[str, int, int], fails: str = "") -> None:
        self._gpus = gpus
        self._fails = fails

    def __getattr__(self, function: str) -> Any:
        def call(*arguments: Any) -> int:
            if function == self._fails:
                return 100
            getattr(self, f"_{function}")(*arguments)
            return 0

        return call

    def _cuInit(self, flags: int) -> None:  # noqa: N802 - the driver's name
        assert flags == 0

    def _cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = len(self._gpus)

    def _cuDeviceGet(self, device: Any, ordinal: int) -> None:  # noqa: N802
        device._obj.value = ordinal

    def _cuDeviceGetName(self, name: Any, size: int, device: Any) -> None:  # noqa: N802
        name.value = self._gpus[device.value][0].encode()[: size - 1]

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:  # noqa: N802
        value._obj.value = self._gpus[device.value][{75: 1, 76: 2}[attribute]]


def test_one_gpu() -> None:
    assert find_gpu(Driver(("NVIDIA L4", 8, 9))) == Gpu("NVIDIA L4", "8.9")


def test_equal_gpus_count_as_one() -> None:
    assert find_gpu(Driver(("NVIDIA H200", 9, 0), ("NVIDIA H200", 9, 0))) == Gpu("NVIDIA H200", "9.0")


def test_two_kinds() -> None:
    with pytest.raises(PlanError, match=r"different GPUs: NVIDIA L4 \(8\.9\), Tesla T4 \(7\.5\); .*CUDA_VISIBLE_DEVICES"):
        find_gpu(Driver(("NVIDIA L4", 8, 9), ("Tesla T4", 7, 5)))


def test_none() -> None:
    with pytest.raises(PlanError, match="shows no GPU"):
        find_gpu(Driver())


@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGetCount", "cuDeviceGetName"])
def test_a_driver_that_fails(function: str) -> None:
    with pytest.raises(PlanError, match=f"{function} returned 100"):
        find_gpu(Driver(("NVIDIA L4", 8, 9), fails=function))
