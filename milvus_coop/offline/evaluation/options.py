"""What an evaluation may be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.offline.datasets import SPLITS, Split
from milvus_coop.offline.evaluation.protocols import Protocol
from milvus_coop.search.queries import MAX_K

KS = (10, 20, 50, 100)
HEADLINE_K = 20
"""The k of the paper, and of the gallery and the growth curve where it is among the ks."""
MAX_PAIRS = 2_000_000
"""About a minute of coop-small on two cores."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate."""

    systems: Sequence[str] = ()
    """Some of be, ce, sep-coop, joint-coop; empty: all that the bundles offer."""
    ks: Sequence[int] = KS
    """How many candidates Coop rescores; a row for each."""
    split: Split = "test"
    languages: Sequence[str] = ()
    """Of the captions, each on its own; empty: all that the data has."""
    protocol: Protocol = "all"
    max_pairs: int = MAX_PAIRS
    """The exhaustive cross-encoder is skipped where a pool has more pairs."""
    seed: int = 0
    resamples: int = 1000
    """Of the bootstrap."""
    cost_queries: int = 200
    """Most queries to measure times with; 0: no costs."""
    cost_s: float = 5.0
    """Most seconds for one such measurement."""
    grow: bool = True
    """Whether to measure in parts of the pool too."""
    gallery: int = 6
    """Repaired and broken queries of each direction in the gallery."""

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InvalidArgumentError: naming the first such value.
        """
        if not self.ks:
            raise InvalidArgumentError("no k is given", expected="one or more, such as 10,20,50,100")
        for k in self.ks:
            if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
                raise InvalidArgumentError(f"k is {k!r}", expected=f"a whole number from 1 to {MAX_K:,}")
        if self.split not in SPLITS:
            raise InvalidArgumentError(f"the split is '{self.split}'", expected=", ".join(SPLITS))
        for name, least in (("max_pairs", 0), ("resamples", 1), ("cost_queries", 0), ("gallery", 0)):
            if getattr(self, name) < least:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}", expected=f"at least {least}")

    @property
    def sorted_ks(self) -> tuple[int, ...]:
        """Each k once, rising."""
        return tuple(sorted(set(self.ks)))

    @property
    def headline_k(self) -> int:
        """The k that stands for Coop where there is room for one."""
        return next((k for k in self.sorted_ks if k >= HEADLINE_K), self.sorted_ks[-1])
