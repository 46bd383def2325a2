"""Backends: a backend runs the graphs of a bundle. It maps named arrays to named arrays.

base  the protocol `Backend`     onnx    ONNX Runtime in this process
fake  a backend for tests        triton  a Triton server over gRPC
heap  gives unused memory back
"""

from __future__ import annotations

from milvus_coop.bundle.folder import Bundle
from milvus_coop.config import Settings
from milvus_coop.errors import BackendUnavailableError, InvalidArgumentError, quoted
from milvus_coop.models.backends.base import Backend

__all__ = ["Backend", "open_backend"]


def open_backend(settings: Settings, bundle: Bundle) -> Backend:
    """Open the backend that `settings.models` names.

    `onnx` runs in this process on the CPU. `onnx:cuda`, `onnx:tensorrt`, ... use that provider of ONNX Runtime.
    triton://host:8001 and tritons://host:8001 (TLS) use a Triton server.

    Raises:
        InvalidArgumentError: `settings.models` is none of these.
        BackendUnavailableError: the provider or the client library is not installed. There is no silent fallback to the CPU.
    """
    scheme, _, device = settings.models.partition(":")
    if scheme in ("triton", "tritons"):
        return _open_triton(settings, bundle)
    if scheme != "onnx":
        expected = "onnx, onnx:PROVIDER such as onnx:cuda, triton://host:8001, or tritons://host:8001"
        raise InvalidArgumentError(f"models is {quoted(settings.models)}", expected=expected)
    from milvus_coop.models.backends.onnx import CPU, OnnxBackend, provider_of

    providers = (CPU,) if device in ("", "cpu") else (provider_of(device), CPU)
    return OnnxBackend(bundle, threads=settings.threads or None, providers=providers)


def _open_triton(settings: Settings, bundle: Bundle) -> Backend:
    try:
        from milvus_coop.models.backends.triton import TritonBackend
        from milvus_coop.models.backends.triton.options import options_of
    except ModuleNotFoundError as exc:
        if exc.name is None or not exc.name.startswith("tritonclient"):
            raise
        raise BackendUnavailableError("tritonclient is not installed", run="pip install 'milvus-coop[triton]'") from exc
    return TritonBackend(bundle.spec, options_of(settings.models, settings))
