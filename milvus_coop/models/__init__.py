"""Both roles of a bundle: the encoder, the reranker, image tokens, preprocessing, and the backends that run the graphs.

The code in this package turns images and texts into embeddings, and pairs into match probabilities. It does not know Milvus.

encoder   the bi-encoder                      reranker    the cross-encoder
tokens    image tokens as they are stored     preprocess  from texts and image files to the inputs of a graph
backends  what runs the graphs                open        opens a bundle and its backend
scoring   `CoopModel`, without a database     remote      the bi-encoder of a server
text_memory  the texts that were encoded last text_states  what is kept of the texts of a collection
"""
