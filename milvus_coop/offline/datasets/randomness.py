"""Random numbers that depend on a text only: not on the process, as `hash` does, and not on the order of calls."""

from __future__ import annotations

import hashlib
import random


def number_of(text: str) -> int:
    """A 64-bit number that looks random and depends on the text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def rng_of(text: str) -> random.Random:
    """A random generator that depends on the text."""
    return random.Random(number_of(text))  # noqa: S311 - for images, not for secrets
