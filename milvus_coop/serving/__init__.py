"""Search as a service: Triton and its TensorRT plans, the HTTP gateway with its gallery, and integrations with other frameworks.

triton  model repositories, and a server on this machine     plans         TensorRT plans
gateway the HTTP service                                     gallery       its search page, and a result as one HTML file
integrations  LangChain, LlamaIndex, Haystack

This package holds the code of a running service. It builds on the online packages (bundle, models, store, search, ingest) and does
not know training and evaluation.
"""
