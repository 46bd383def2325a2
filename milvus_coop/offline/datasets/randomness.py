"""Chance that depends on a text only: not on the process, as `hash` does, and not on the order of calls."""

from __future__ import annotations

import hashlib
import random


def number_of(text: str) -> int:
    """A number of 64 bits that looks random."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def rng_of(text: str) -> random.Random:
    """A random generator."""
    return random.Random(number_of(text))  # noqa: S311 - for pictures, not for secrets
