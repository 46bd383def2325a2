"""What all frameworks are told of a hit, and documents of theirs in the order that the cross-encoder gives them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from milvus_coop.errors import InvalidArgumentError
from milvus_coop.search import CoopSearch
from milvus_coop.search.queries import Picture
from milvus_coop.types import Hit, SearchResult

SCORES = ("rank", "score", "be_rank", "be_score", "ce_score", "reranked", "reason")
"""Keys of metadata that tell how a hit came about."""

BEYOND_K = "it is not among the candidates that the cross-encoder rescores"
UNKNOWN = "the collection has no item of this id"


def metadata_of(hit: Hit, result: SearchResult) -> dict[str, Any]:
    """The fields that were asked for, the uri, and `SCORES`, which win over fields of the same name.

    `reranked` says whether the cross-encoder rescored this hit, and `reason` why not; None where it did.
    """
    return {**hit.fields, "uri": hit.uri, **scores_of(hit, result)}


def scores_of(hit: Hit, result: SearchResult) -> dict[str, Any]:
    """`SCORES` of a hit."""
    reranked = hit.ce_score is not None
    return {
        "rank": hit.rank,
        "score": hit.score,
        "be_rank": hit.be_rank,
        "be_score": hit.be_score,
        "ce_score": hit.ce_score,
        "reranked": reranked,
        "reason": None if reranked else result.reason or BEYOND_K,
    }


def rerank_places(
    search: CoopSearch,
    text: str | None = None,
    *,
    image: Picture | None = None,
    ids: Sequence[object],
    limit: int | None = None,
    deadline_ms: float | None = None,
) -> list[tuple[int, dict[str, Any]]]:
    """Rerank documents that have the ids of items.

    Args:
        search: of the collection with these items.
        text: what they are compared with.
        image: instead of `text`.
        ids: of each document the id of its item, or None; several may have the same.
        limit: how many to return; None: all.
        deadline_ms: as in `CoopSearch.query`.

    Returns:
        Places in `ids`, best first, each with the new metadata of its document. Documents without an item come last.

    Raises:
        InvalidArgumentError: the limit is not a number of documents; and what `CoopSearch.rerank` raises.
    """
    if limit is not None and limit < 1:
        raise InvalidArgumentError(f"the number of documents is {limit}", expected="1 or more")
    places: dict[str, list[int]] = defaultdict(list)
    for place, id in enumerate(ids):
        if id is not None:
            places[str(id)].append(place)
    result = search.rerank(text, image=image, ids=list(places), deadline_ms=deadline_ms)
    known = [(place, scores_of(hit, result)) for hit in result for place in places[hit.id]]
    unknown = sorted(set(range(len(ids))) - {place for place, _ in known})
    nothing = dict.fromkeys(SCORES) | {"reranked": False, "reason": UNKNOWN}
    return [*known, *((place, dict(nothing)) for place in unknown)][:limit]
