"""Rerank protocols. With them, Milvus itself can call the cross-encoder during a search, for clients in any language.

Each path follows a published protocol exactly: that of Cohere, of Text Embeddings Inference, or of Jina and vLLM.
"""

from milvus_coop.serving.gateway.rerank.router import rerank_form, rerank_router

__all__ = ["rerank_form", "rerank_router"]
