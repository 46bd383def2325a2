"""The embeddings of a server that somebody else runs, in the place of a bundle.

protocols  the forms of requests and answers
embedder   the server that settings name, and `open_embedder`
encoder    `RemoteEncoder`, in the place of the bundle's bi-encoder
"""
