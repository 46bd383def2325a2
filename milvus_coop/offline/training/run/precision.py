"""Mixed precision: the meaning of `auto` on this machine, and the context in which a network computes.

Measured on a CPU with AVX512-BF16 and one thread: in bfloat16 a transformer layer of width 384 takes half of the time, one of width
64 takes two thirds, and the `conv` backbone takes 0.6. EfficientNet-Lite's depthwise convolutions gain nothing and stay in float32
(`OneStream.tokens`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

_CPU_CHECKS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""Checks of `torch.cpu` for instructions that multiply bfloat16. oneDNN also accepts bfloat16 where it must emulate it, slowly."""
_CPU_FLAGS = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")
"""Names in `torch.cpu.get_capabilities`, for the versions of PyTorch that have it."""


def resolve_precision(asked: str) -> str:
    """Replace `auto` by bf16 if the hardware multiplies bfloat16, else by `no` (float32). Any other name is returned unchanged."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if torch.accelerator.is_available():  # an accelerator other than CUDA, which was never measured
        return "no"
    return "bf16" if cpu_multiplies_bf16() else "no"


def cpu_multiplies_bf16() -> bool:
    """True if this CPU has instructions for bfloat16 and this PyTorch uses them."""
    checks = (getattr(torch.cpu, name, None) for name in _CPU_CHECKS)
    capabilities: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    known = capabilities()
    has_them = any(check() for check in checks if check is not None) or any(known.get(flag) for flag in _CPU_FLAGS)
    return has_them and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def computing(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network is evaluated: autocast for bf16 and fp16, and an empty context for `no`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision in ("bf16", "fp16"))
