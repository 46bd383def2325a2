"""Search for others: Triton and its TensorRT plans, the HTTP gateway with its gallery, and integrations with other frameworks.

Belongs here: what a running service needs. It builds on the online packages (bundle, models, store, search, ingest) and knows
nothing of training and evaluation.
"""
