"""Both roles of a bundle: the encoder, the reranker, image tokens, preprocessing, and the backends that run the graphs.

The code in this package turns images and texts into embeddings, and pairs into match probabilities. It does not know Milvus.
"""
