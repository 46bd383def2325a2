"""Both roles of a bundle: the encoder, the reranker, image tokens, preprocessing, and the backends that run the graphs.

Belongs here: what turns images and texts into embeddings and pairs into match probabilities. It knows nothing of Milvus.
"""
