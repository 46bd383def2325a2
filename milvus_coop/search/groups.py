"""Searches with many queries in groups: one group is encoded and reranked while Milvus searches with another."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.types import SearchResult, Timings

GROUP = 32
"""Number of queries in a group. Larger groups are not faster, and hold the contents of more candidates in memory."""
TOGETHER = 2
"""Number of groups that are searched at the same time."""

Search = Callable[[Sequence[str] | None, Sequence[ImageInput] | None], list[SearchResult]]
"""Searches with texts or with images; the other argument is None."""


def in_groups(search: Search, texts: Sequence[str] | None, images: Sequence[ImageInput] | None) -> list[SearchResult]:
    """The results of all queries, in their order; see `CoopSearch.query_many` for their timings.

    The first error of a group is raised. Groups that have not begun by then are dropped.
    """
    n = len((texts if images is None else images) or ())
    if n <= GROUP or (texts and images):
        return search(texts, images)
    start_s = time.perf_counter()
    context = contextvars.copy_context()

    def search_group(start: int) -> list[SearchResult]:
        group = slice(start, start + GROUP)
        return context.copy().run(search, texts and texts[group], images and images[group])

    with ThreadPoolExecutor(TOGETHER, "milvus-coop-group") as pool:
        groups = list(pool.map(search_group, range(0, n, GROUP)))
    parts = [results[0].timings for results in groups]
    timings = Timings(
        sum(part.encode_ms for part in parts),
        sum(part.retrieve_ms for part in parts),
        sum(part.rerank_ms for part in parts),
        1000 * (time.perf_counter() - start_s),
    )
    return [replace(result, timings=timings) for results in groups for result in results]
