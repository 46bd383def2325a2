"""Inputs that nobody would think of: generators, and the rule that each input gives an own error or a right result.

A short run of each property belongs to `make test`, a long one to `make test-more`.
"""
