"""Serving a bundle from Triton: a model repository, and a server on this machine.

config        config.pbtxt of one model, from the bundle's spec    repository  a complete model repository
python_model  the model that runs in Triton's Python backend       install     finds or installs tritonserver
server        starts a server, waits until it is ready, stops it       log         reads what the server logs
guard         stops it if the process that started it is killed

The client is `milvus_coop.models.backends.triton`.
"""

from __future__ import annotations

from milvus_coop.serving.triton.config import PLATFORMS, Platform, Tuning
from milvus_coop.serving.triton.install import TritonInstall, find_triton
from milvus_coop.serving.triton.repository import export_repository
from milvus_coop.serving.triton.server import Endpoints, TritonServer

__all__ = ["PLATFORMS", "Endpoints", "Platform", "TritonInstall", "TritonServer", "Tuning", "export_repository", "find_triton"]
