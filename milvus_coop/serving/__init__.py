"""Search as a service: Triton and its TensorRT plans, the HTTP gateway with its gallery, and integrations with other frameworks.

This package holds the code of a running service. It builds on the online packages (bundle, models, store, search, ingest) and does
not know training and evaluation.
"""
