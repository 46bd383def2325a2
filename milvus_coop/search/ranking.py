"""From candidates and their cross-encoder scores to the final, deterministic order."""

from __future__ import annotations

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
) -> tuple[Hit, ...]:
    """Order candidates: those with a match probability first, best first; the rest follow in BE order. Ties keep the BE order.

    Args:
        candidates: in BE order.
        probability: the match probabilities of the first candidates, of shape (n,); NaN where the cross-encoder gave none.
        limit: the maximum number of hits.
        kind: of the collection; in collections of texts the payload is the hit's text.
        logit: of the same candidates, of shape (n,); needed for `sum`. Logits do not break ties of probabilities: of a head with
            two outputs the probability is made of their difference.
        score: `ce` orders by the match probability; `sum` by logit + cosine, as BLIP's retrieval adds the score of its matching
            head to that of its contrastive one (Li et al., BLIP, ICML 2022; `evaluation` in their train_retrieval.py).
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
        for position, i in enumerate([*order.tolist(), *rest.tolist()][:limit], start=1)
    )
