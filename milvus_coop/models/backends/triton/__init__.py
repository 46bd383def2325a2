"""Runs a bundle on a Triton server over gRPC. The only client in this package."""

from __future__ import annotations

from milvus_coop.models.backends.triton.backend import TritonBackend
from milvus_coop.models.backends.triton.options import TritonOptions

__all__ = ["TritonBackend", "TritonOptions"]
