"""What the tests of all frameworks share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from milvus_coop import SearchResult

ROOT = Path(__file__).parent.parent.parent
QUERY = "a boat on the water"
BEST = "sailing_boat.jpg"
Told = tuple[str, float | None, float | None]
"""Id, score and ce_score of a document."""


def expected(result: SearchResult) -> list[Told]:
    return [(hit.id, hit.score, hit.ce_score) for hit in result]


def assert_alike(told: Sequence[Told], other: Sequence[Told]) -> None:
    """The same documents in the same order; scores of another batch may round apart."""
    assert [id for id, *_ in told] == [id for id, *_ in other]
    assert [ce_score for *_, ce_score in told] == pytest.approx([ce_score for *_, ce_score in other], abs=1e-5)
    assert [score for _, score, _ in told] == pytest.approx([score for _, score, _ in other], abs=1e-5)
