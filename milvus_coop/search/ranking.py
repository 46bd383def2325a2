"""The final order of candidates from the scores of the cross-encoder. It is deterministic."""

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
    """Order candidates. Candidates with a CE score come first, best first; the others follow in BE order. Ties keep the BE order.

    Args:
        candidates: the candidates in BE order.
        ce_scores: match probability by position in `candidates`.
        limit: number of hits to return.
        kind: kind of the collection. In a collection of texts, the payload is the text of a hit.
        logits: logit by the same positions; needed for `sum`. Logits do not break ties between probabilities: if a head has two
            outputs, the probability depends on their difference.
        score: `ce` orders by the match probability. `sum` orders by logit + cosine, as BLIP's retrieval adds the score of its
            matching head to the score of its contrastive head (Li et al., BLIP, ICML 2022; `evaluation` in train_retrieval.py).
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
