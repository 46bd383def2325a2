"""The growth of a query's cost with the pool: the same queries in an eighth, a quarter, a half and all of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from milvus_coop.offline.evaluation.cost import Meter, Sample, coop_meter, exhaustive_meter, measure
from milvus_coop.offline.evaluation.progress import OnProgress
from milvus_coop.offline.evaluation.records import Cost, SystemVariant
from milvus_coop.offline.evaluation.systems import OpenedBundle
from milvus_coop.offline.evaluation.workbench import Shelf, Workbench

PARTS = (8, 4, 2, 1)
LEAST = 10
"""Minimum number of items in a part that is measured."""


def grow(
    bench: Workbench,
    opened: OpenedBundle,
    shelf: Shelf,
    of: Sample,
    variants: Sequence[SystemVariant],
    seed: int,
    on_progress: OnProgress,
) -> list[Cost]:
    """Measure every variant in random parts of a collection. Each part contains the smaller parts."""
    order = np.random.default_rng(seed).permutation(np.array(list(shelf.rows))).tolist()
    sizes = sorted({n for part in PARTS if (n := -(-len(order) // part)) >= LEAST} | {len(order)})
    parts = [bench.part(shelf, sorted(order[:size])) for size in sizes]
    meters: list[Meter] = []
    with ExitStack() as stack:
        for part in parts:
            search = stack.enter_context(bench.search(part))
            size = len(part.rows)
            meters += [
                exhaustive_meter(opened, part, of) if c.system == "ce" else coop_meter(search, of, c, size) for c in variants
            ]
        costs = measure(meters, of, f"measure parts of the pool, {opened.name}", on_progress)
    for part in parts:
        if part is not shelf:
            bench.drop(part)
    return costs
