"""Serving a bundle from Triton: the model repository, a server on this machine.

config       one model's config.pbtxt, from the bundle's spec      repository  a complete model repository
python_model what runs inside Triton's Python backend              install     where tritonserver comes from
server       start, wait until every model is ready, stop

The client is `milvus_coop.models.backends.triton`.
"""

from __future__ import annotations

from milvus_coop.serving.triton.config import PLATFORMS, Platform, Tuning
from milvus_coop.serving.triton.install import TritonInstall, find_triton
from milvus_coop.serving.triton.repository import export_repository
from milvus_coop.serving.triton.server import Endpoints, TritonServer

__all__ = ["PLATFORMS", "Endpoints", "Platform", "TritonInstall", "TritonServer", "Tuning", "export_repository", "find_triton"]
