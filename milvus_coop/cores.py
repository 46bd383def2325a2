"""The cores of the machine, and the number of threads that makes sense on them."""

from __future__ import annotations

import logging
import os
from typing import SupportsIndex

from milvus_coop.arguments import whole_number

MAX_THREADS = 1024
"""Numbers of threads above this are refused, because they can only be mistakes."""


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(asked: SupportsIndex | None, *, per_core: int = 1) -> int:
    """Number of threads to start: as many as asked for, but at most `per_core` for each core. A reduced number is logged.

    Args:
        asked: 0 or None for one per core.
        per_core: more than 1 for threads that wait, for example for a disk.

    Raises:
        InvalidArgumentError: `asked` is not a whole number from 0 to 1024.
    """
    if asked is None:
        return available_cores()
    threads = whole_number("threads", asked, 0, MAX_THREADS)
    cores = available_cores()
    if threads > per_core * cores:
        logging.getLogger(__name__).warning("threads is %d; %d are used, for %d cores", threads, per_core * cores, cores)
    return min(threads, per_core * cores) or cores
