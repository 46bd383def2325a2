"""Backends: what runs a bundle's graphs."""

from __future__ import annotations

from milvus_coop.backends.base import Backend
from milvus_coop.bundle.folder import Bundle
from milvus_coop.errors import InvalidArgumentError

__all__ = ["Backend", "open_backend"]


def open_backend(models: str, bundle: Bundle, *, threads: int | None = None) -> Backend:
    """The backend that `--models` names.

    Args:
        models: `onnx` (in this process, on the CPU), or `onnx:cuda`, `onnx:tensorrt`, ... (on that provider of ONNX Runtime).
        bundle: what to run.
        threads: of one in-process run; None: one per core.

    Raises:
        InvalidArgumentError: `models` is none of these.
        BackendUnavailableError: the provider is not there; nothing falls back to the CPU.
    """
    scheme, _, device = models.partition(":")
    if scheme != "onnx":
        raise InvalidArgumentError(f"models '{models}'", expected="onnx, or onnx:PROVIDER such as onnx:cuda")
    from milvus_coop.backends.onnx import CPU, OnnxBackend, provider_of

    if device in ("", "cpu"):
        return OnnxBackend(bundle, threads=threads)
    return OnnxBackend(bundle, threads=threads, providers=(provider_of(device), CPU))
