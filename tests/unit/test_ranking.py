"""The final order against a naive version."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from milvus_coop.search.ranking import rank
from milvus_coop.types import Array, Candidate, StoredText, StoredTokens


def candidates(n: int, *, of_texts: bool = False) -> list[Candidate]:
    contents = [StoredText(f"text {i}") if of_texts else StoredTokens(f"{i}") for i in range(n)]
    return [Candidate(id=f"{i}", uri=f"u{i}", be_score=1 - i / 100, content=content) for i, content in enumerate(contents)]


def given_scores(n: int, values: dict[int, float]) -> Array:
    """The values at their positions, NaN elsewhere."""
    array = np.full(n, np.nan)
    array[list(values)] = list(values.values())
    return array


@settings(deadline=None)
@given(scores=st.dictionaries(st.integers(0, 19), st.sampled_from([0.1, 0.5, 0.9]), max_size=20), limit=st.integers(1, 25))
def test_like_the_naive_version(scores: dict[int, float], limit: int) -> None:
    hits = rank(candidates(20), given_scores(20, scores), limit)
    expected = []
    for value in (0.9, 0.5, 0.1):
        expected += [i for i in range(20) if scores.get(i) == value]
    expected += [i for i in range(20) if i not in scores]
    assert [hit.be_rank - 1 for hit in hits] == expected[:limit]
    assert [hit.rank for hit in hits] == list(range(1, min(limit, 20) + 1))
    for hit in hits:
        assert hit.ce_score == scores.get(hit.be_rank - 1)
        assert hit.score == (hit.be_score if hit.ce_score is None else hit.ce_score)
        assert hit.text is None


def test_texts_come_with_their_text() -> None:
    assert [hit.text for hit in rank(candidates(2, of_texts=True), given_scores(2, {1: 0.5}), 2)] == ["text 1", "text 0"]


def test_logits_break_no_ties() -> None:
    """20 against -30 is surer than 25 against -20, and the logit of "match" alone says the opposite."""
    logit = np.array([20.0, 25.0, 17.0, -1.0])
    hits = rank(candidates(5), np.array([1.0, 1.0, 1.0, 0.3]), 5, logit=logit)
    assert [hit.id for hit in hits] == ["0", "1", "2", "3", "4"]
    assert [hit.score for hit in hits] == [1.0, 1.0, 1.0, 0.3, 0.96]


def test_the_sum_of_logit_and_cosine() -> None:
    found = [
        Candidate("a", "", 0.9, None),
        Candidate("b", "", 0.5, None),
        Candidate("c", "", 0.1, None),
        Candidate("d", "", 0.0, None),
    ]
    hits = rank(found, np.array([0.5, 0.6, 0.5]), 4, logit=np.array([0.0, 0.25, 0.8]), score="sum")
    assert [(hit.id, hit.score, hit.ce_score) for hit in hits] == [
        ("a", 0.9, 0.5),
        ("c", 0.9, 0.5),
        ("b", 0.75, 0.6),
        ("d", 0.0, None),
    ]


@settings(deadline=None)
@given(
    scores=st.dictionaries(st.integers(0, 19), st.sampled_from([0.1, 0.5, 0.9]), max_size=20),
    limit=st.integers(1, 7),
    least=st.sampled_from([None, 0.0, 0.5, 0.95]),
)
def test_pages_are_parts_of_one_ranking(scores: dict[int, float], limit: int, least: float | None) -> None:
    given_ = given_scores(20, scores)
    whole = rank(candidates(20), given_, 20)
    pages = [
        hit for offset in range(0, 20, limit) for hit in rank(candidates(20), given_, limit, offset=offset, min_ce_score=least)
    ]
    assert pages == [hit for hit in whole if least is None or (hit.ce_score is not None and hit.ce_score >= least)]
    near = rank(candidates(20), given_, 20, min_be_score=0.9)
    assert list(near) == [hit for hit in whole if hit.be_score >= 0.9]


def test_a_threshold_keeps_the_hit_that_shows_this_very_value() -> None:
    probability = np.array([0.7, 0.2], np.float32)  # 0.7 as float32 is less than 0.7
    (hit,) = rank(candidates(2), probability, 5, min_ce_score=float(probability[0]))
    assert hit.ce_score == float(probability[0])
    assert rank(candidates(2), probability, 5, min_ce_score=0.7) == ()
