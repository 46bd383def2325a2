"""From candidates and what the cross-encoder says of them to the final, deterministic order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milvus_coop.bundle.spec import Score
from milvus_coop.types import Candidate, Hit, Kind


def rank(
    candidates: Sequence[Candidate],
    ce_scores: Mapping[int, float],
    limit: int,
    kind: Kind | None,
    *,
    logits: Mapping[int, float] | None = None,
    score: Score = "ce",
) -> tuple[Hit, ...]:
    """Order candidates: those that the cross-encoder scored first, best first; the rest follow in BE order. Ties keep the BE order.

    Args:
        candidates: in BE order.
        ce_scores: match probability by position in `candidates`.
        limit: how many hits to return.
        kind: of the collection; in collections of texts the payload is the hit's text.
        logits: of the same positions; needed for `sum`. They do not break ties of probabilities: of a head with two outputs the
            probability is made of their difference.
        score: `ce` orders by the match probability; `sum` by logit + cosine, as BLIP's retrieval adds the score of its matching
            head to that of its contrastive one (Li et al., BLIP, ICML 2022; `evaluation` in their train_retrieval.py).
    """
    logits = logits or dict.fromkeys(ce_scores, 0.0)
    final = ce_scores if score == "ce" else {i: logits[i] + candidates[i].be_score for i in ce_scores}
    rescored = sorted(ce_scores, key=lambda i: (-final[i], i))
    rest = [i for i in range(len(candidates)) if i not in ce_scores]
    return tuple(
        Hit(
            id=candidates[i].id,
            uri=candidates[i].uri,
            rank=position,
            score=final.get(i, candidates[i].be_score),
            be_rank=i + 1,
            be_score=candidates[i].be_score,
            ce_score=ce_scores.get(i),
            text=candidates[i].payload if kind == "text" else None,
            fields=candidates[i].fields,
        )
        for position, i in enumerate((rescored + rest)[:limit], start=1)
    )
