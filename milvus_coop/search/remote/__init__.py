"""Reranks with a server that somebody else runs, and that speaks a published protocol.

address   the address of a server, and what may be sent    protocols  the forms of requests and answers
client    one request, repeated where that is safe         images     the images of candidates, if they may be sent
reranker  `RemoteReranker`, in the place of the bundle's cross-encoder
"""
