"""Coop search: retrieve with the bi-encoder, rerank with the cross-encoder."""

from __future__ import annotations

from milvus_coop.search.coop import CoopSearch
from milvus_coop.search.options import QueryOptions

__all__ = ["CoopSearch", "QueryOptions"]
