"""From candidates and match probabilities to the final, deterministic order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milvus_coop.types import Candidate, Hit, Kind


def rank(candidates: Sequence[Candidate], ce_scores: Mapping[int, float], limit: int, kind: Kind | None) -> tuple[Hit, ...]:
    """Order candidates: those with a match probability first, best first; the rest follow in BE order. Ties keep the BE order.

    Args:
        candidates: in BE order.
        ce_scores: match probability by position in `candidates`.
        limit: how many hits to return.
        kind: of the collection; in collections of texts the payload is the hit's text.
    """
    rescored = sorted(ce_scores, key=lambda i: (-ce_scores[i], i))
    rest = [i for i in range(len(candidates)) if i not in ce_scores]
    return tuple(
        Hit(
            id=candidates[i].id,
            uri=candidates[i].uri,
            rank=position,
            score=ce_scores.get(i, candidates[i].be_score),
            be_rank=i + 1,
            be_score=candidates[i].be_score,
            ce_score=ce_scores.get(i),
            text=candidates[i].payload if kind == "text" else None,
            fields=candidates[i].fields,
        )
        for position, i in enumerate((rescored + rest)[:limit], start=1)
    )
