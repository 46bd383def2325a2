"""Retrievers and rerankers for LangChain, LlamaIndex and Haystack. Each module needs the extra with its name."""

from __future__ import annotations

from milvus_coop.errors import MissingPackageError


def missing(framework: str, extra: str) -> MissingPackageError:
    """The error that a module raises if its framework is not installed."""
    return MissingPackageError(f"{framework} is not installed", run=f"pip install 'milvus-coop[{extra}]'")
