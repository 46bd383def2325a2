"""Common parts of all integrations: the metadata of a hit, and the reranking of a framework's documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from milvus_coop.arguments import LARGEST, whole_number
from milvus_coop.models.preprocess.images import ImageInput
from milvus_coop.search import CoopSearch
from milvus_coop.types import Hit, SearchResult

SCORES = ("rank", "score", "be_rank", "be_score", "ce_score", "reranked", "reason")
"""Keys of metadata that say how a hit was found."""

BEYOND_K = "it is not among the candidates that the cross-encoder reranks"
UNKNOWN = "the collection has no item of this id"


def metadata_of(hit: Hit, result: SearchResult) -> dict[str, Any]:
    """The metadata of a hit: its output fields, its uri, and `SCORES`. `SCORES` replace fields of the same name.

    `reranked` is True if the cross-encoder reranked this hit; otherwise `reason` says why not.
    """
    return {**hit.fields, "uri": hit.uri, **scores_of(hit, result)}


def scores_of(hit: Hit, result: SearchResult) -> dict[str, Any]:
    """The values of `SCORES` for a hit."""
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
    image: ImageInput | None = None,
    ids: Sequence[object],
    limit: int | None = None,
    deadline_ms: float | None = None,
) -> list[tuple[int, dict[str, Any]]]:
    """Rerank documents that stand for items of a collection.

    Args:
        search: the search of the collection.
        text: the text that the items are compared with.
        image: the image that the items are compared with, instead of `text`.
        ids: for each document the id of its item, or None. Several documents may have the same id.
        limit: number of documents to return; None means all.
        deadline_ms: time limit, as in `CoopSearch.query`.

    Returns:
        Places in `ids`, best first, each with the new metadata of its document. Documents without an item come last.

    Raises:
        InvalidArgumentError: the limit is not a whole number from 1. `CoopSearch.rerank` may raise other errors.
    """
    if limit is not None:
        whole_number("the number of documents", limit, 1, LARGEST)
    places: dict[str, list[int]] = defaultdict(list)
    for place, id in enumerate(ids):
        if id is not None:
            places[str(id)].append(place)
    result = search.rerank(text, image=image, ids=list(places), deadline_ms=deadline_ms)
    known = [(place, scores_of(hit, result)) for hit in result for place in places[hit.id]]
    unknown = sorted(set(range(len(ids))) - {place for place, _ in known})
    nothing = dict.fromkeys(SCORES) | {"reranked": False, "reason": UNKNOWN}
    return [*known, *((place, dict(nothing)) for place in unknown)][:limit]
