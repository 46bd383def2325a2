"""Cross-modal search on Milvus: retrieve with a bi-encoder, rerank with a cross-encoder.

    from milvus_coop import CoopIngest, CoopSearch

    CoopIngest("images").run(["photos/"])
    for hit in CoopSearch("images").query("two dogs on a beach"):
        print(hit.rank, hit.uri, hit.score)

`CoopModel` embeds and scores texts and images in memory, without Milvus.

Each name is loaded when it is first used, so that `import milvus_coop` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milvus_coop.bundle import Bundle, BundleSpec, load_bundle
    from milvus_coop.config import Settings
    from milvus_coop.errors import MilvusCoopError
    from milvus_coop.ingest import CoopIngest, IngestOptions, Item
    from milvus_coop.models.backends import Backend
    from milvus_coop.models.backends.fake import FakeBackend
    from milvus_coop.models.scoring import CoopModel
    from milvus_coop.search import CoopSearch, QueryOptions
    from milvus_coop.store import CollectionOptions, Fields, Store
    from milvus_coop.types import CollectionInfo, Failure, Hit, IngestReport, SearchResult, Timings

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "Bundle",
    "BundleSpec",
    "CollectionInfo",
    "CollectionOptions",
    "CoopIngest",
    "CoopModel",
    "CoopSearch",
    "Failure",
    "FakeBackend",
    "Fields",
    "Hit",
    "IngestOptions",
    "IngestReport",
    "Item",
    "MilvusCoopError",
    "QueryOptions",
    "SearchResult",
    "Settings",
    "Store",
    "Timings",
    "load_bundle",
]

_HOMES = {
    "Backend": "models.backends",
    "Bundle": "bundle",
    "BundleSpec": "bundle",
    "CollectionInfo": "types",
    "CollectionOptions": "store",
    "CoopIngest": "ingest",
    "CoopModel": "models.scoring",
    "CoopSearch": "search",
    "Failure": "types",
    "FakeBackend": "models.backends.fake",
    "Fields": "store",
    "Hit": "types",
    "IngestOptions": "ingest",
    "IngestReport": "types",
    "Item": "ingest",
    "MilvusCoopError": "errors",
    "QueryOptions": "search",
    "SearchResult": "types",
    "Settings": "config",
    "Store": "store",
    "Timings": "types",
    "load_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'milvus_coop' has no attribute '{name}'")
    return getattr(importlib.import_module(f"milvus_coop.{_HOMES[name]}"), name)
