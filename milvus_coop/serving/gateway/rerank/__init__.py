"""Rerank protocols, so that Milvus itself can ask the cross-encoder during a search, for any client in any language.

Each path follows a published protocol to the letter: Cohere's, that of Text Embeddings Inference, and Jina's and vLLM's.
"""

from milvus_coop.serving.gateway.rerank.router import rerank_error, rerank_router

__all__ = ["rerank_error", "rerank_router"]
