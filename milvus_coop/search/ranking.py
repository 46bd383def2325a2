"""The final order of candidates from the scores of the cross-encoder. It is deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from milvus_coop.bundle.spec import Score
from milvus_coop.types import Array, Candidate, Hit, Kind


def rank(
    candidates: Sequence[Candidate],
    probability: Array,
    limit: int,
    kind: Kind | None,
    *,
    logit: Array | None = None,
    score: Score = "ce",
    offset: int = 0,
    min_ce_score: float | None = None,
    min_be_score: float | None = None,
) -> tuple[Hit, ...]:
    """Order candidates: those with a match probability come first, best first; the others follow in BE order, as do ties.

    Args:
        candidates: the candidates in BE order.
        probability: match probabilities of the first candidates, of shape (n,); NaN where the cross-encoder gave none.
        limit: the maximum number of hits.
        kind: kind of the collection. In a collection of texts, the payload is the text of a hit.
        logit: logits of the same candidates, of shape (n,); needed for `sum`. Logits do not break ties between probabilities: if a
            head has two outputs, the probability depends on their difference.
        score: `ce` orders by the match probability. `sum` orders by logit + cosine, as BLIP's retrieval adds the score of its
            matching head to the score of its contrastive head (Li et al., BLIP, ICML 2022; `evaluation` in train_retrieval.py).
        offset: number of the best hits to leave out.
        min_ce_score: hits with a lower match probability are left out, and hits without one. The ranks of the others stay.
        min_be_score: hits with a lower cosine are left out.
    """
    scored = np.flatnonzero(~np.isnan(probability[: len(candidates)]))
    final = probability[scored].astype(np.float64)
    if score == "sum":
        if logit is None:
            raise ValueError("the score 'sum' needs logits")
        final = logit[scored].astype(np.float64) + np.array([candidates[i].be_score for i in scored.tolist()], np.float64)
    order = scored[np.argsort(-final, kind="stable")]
    rest = np.setdiff1d(np.arange(len(candidates)), scored)
    final_of, ce_of = (dict(zip(scored.tolist(), values.tolist(), strict=True)) for values in (final, probability[scored]))
    ranked = [
        (position, i)
        for position, i in enumerate([*order.tolist(), *rest.tolist()], start=1)
        if (min_ce_score is None or ce_of.get(i, -math.inf) >= min_ce_score)
        and (min_be_score is None or candidates[i].be_score >= min_be_score)
    ]
    return tuple(
        Hit(
            id=candidates[i].id,
            uri=candidates[i].uri,
            rank=position,
            score=final_of.get(i, candidates[i].be_score),
            be_rank=i + 1,
            be_score=candidates[i].be_score,
            ce_score=ce_of.get(i),
            text=candidates[i].payload if kind == "text" else None,
            fields=candidates[i].fields,
        )
        for position, i in ranked[offset : offset + limit]
    )
