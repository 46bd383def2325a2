"""The options of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milvus_coop.arguments import LARGEST, whole_number
from milvus_coop.errors import InvalidArgumentError
from milvus_coop.offline.datasets import SPLITS, Split
from milvus_coop.offline.evaluation.protocols import Protocol
from milvus_coop.store.schema import MAX_K

KS = (10, 20, 50, 100)
HEADLINE_K = 20
"""The k of the paper. The gallery and the growth curve use it if it is among the ks."""
MAX_PAIRS = 2_000_000
"""Number of pairs that coop-small scores in about a minute on two cores."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """The options of an evaluation."""

    systems: Sequence[str] = ()
    """Some of be, ce, sep-coop, joint-coop. Empty means all that the bundles offer."""
    ks: Sequence[int] = KS
    """Numbers of candidates that Coop reranks. Each is a row of the tables."""
    split: Split = "test"
    languages: Sequence[str] = ()
    """Languages of the captions, each evaluated on its own. Empty means all languages of the data."""
    protocol: Protocol = "all"
    max_pairs: int = MAX_PAIRS
    """The exhaustive cross-encoder is skipped if a pool has more pairs."""
    seed: int = 0
    resamples: int = 1000
    """Number of bootstrap resamples."""
    cost_queries: int = 200
    """Maximum number of queries whose time is measured. 0 means that no cost is measured."""
    cost_s: float = 5.0
    """Maximum time of one such measurement, in seconds."""
    grow: bool = True
    """If true, cost is also measured in parts of the pool."""
    gallery: int = 6
    """Number of repaired and of broken queries per direction in the gallery."""

    def check(self) -> None:
        """Refuse invalid values.

        Raises:
            InvalidArgumentError: a value is invalid. The message names the first one.
        """
        if not self.ks:
            raise InvalidArgumentError("no k is given", expected="one or more, such as 10,20,50,100")
        for k in self.ks:
            whole_number("k", k, 1, MAX_K)
        if self.split not in SPLITS:
            raise InvalidArgumentError(f"the split is '{self.split}'", expected=", ".join(SPLITS))
        for name, minimum in (("max_pairs", 0), ("resamples", 1), ("cost_queries", 0), ("gallery", 0)):
            whole_number(name, getattr(self, name), minimum, LARGEST)

    @property
    def sorted_ks(self) -> tuple[int, ...]:
        """Each k once, in ascending order."""
        return tuple(sorted(set(self.ks)))

    @property
    def headline_k(self) -> int:
        """The k that represents Coop where only one can be shown."""
        return next((k for k in self.sorted_ks if k >= HEADLINE_K), self.sorted_ks[-1])
