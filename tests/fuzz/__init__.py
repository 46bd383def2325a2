"""Inputs that nobody would think of: generators, and the rule that each input gives an own error or a right result.

A short run of each property belongs to `make test`, a long one to `make test-more`. Two bounds hold for every input, see `runs`: a
time for each, and a growth of the process' peak memory for all of a test. The end of a run lists how many inputs each test tried.
"""
