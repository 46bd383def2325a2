"""The embeddings of a server that somebody else runs, in the place of a bundle.

protocols  the forms of requests and answers          server    the server that settings name
client     one request                                encoder   `RemoteEncoder`, in the place of the bundle's bi-encoder
embedder   `open_embedder`, in the place of opening a bundle
"""
