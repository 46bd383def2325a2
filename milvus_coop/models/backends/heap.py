"""Gives memory that was freed back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def release_free_memory() -> None:
    """Give freed memory of the C heap back to the system, where the C library is glibc; elsewhere do nothing.

    While ONNX Runtime loads a graph, it widens small weights to float32 and packs them. glibc keeps what that needed in between,
    about as much as the weights themselves after the text encoder of coop-small (`tests/unit/test_loading.py`).
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
