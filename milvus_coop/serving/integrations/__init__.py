"""Retrievers and rerankers for LangChain, LlamaIndex and Haystack; each module needs the extra of its name."""

from __future__ import annotations

from milvus_coop.errors import MissingPackageError


def missing(framework: str, extra: str) -> MissingPackageError:
    """What a module raises whose framework is not installed."""
    return MissingPackageError(f"{framework} is not installed", run=f"pip install 'milvus-coop[{extra}]'")
