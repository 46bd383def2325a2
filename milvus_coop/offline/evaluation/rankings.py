"""Rankings from Milvus. Each query is asked once, with the largest k. The answers of every smaller k follow from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from milvus_coop.errors import BackendError
from milvus_coop.offline.evaluation.corpus import Corpus
from milvus_coop.offline.evaluation.metrics import DEPTH
from milvus_coop.offline.evaluation.progress import OnProgress, Progress
from milvus_coop.offline.evaluation.protocols import Pool
from milvus_coop.offline.evaluation.systems import Entrant
from milvus_coop.offline.evaluation.workbench import Shelf, Workbench, number_of
from milvus_coop.search import CoopSearch
from milvus_coop.types import Array, Kind, SearchResult

PAIRS_PER_CALL = 2048
"""Pairs in one `query_many`: enough for full batches, few enough for a progress bar that moves."""
QUERIES_PER_CALL = 32


@dataclass(frozen=True, slots=True)
class Ranking:
    """The candidates that Milvus returned for one query, and their cross-encoder scores."""

    query: int
    """Number of the text or image that is the query."""
    items: Array
    """Item numbers in BE order, best first: int64 of shape (n,)."""
    be_scores: Array
    """BE scores, float32 of shape (n,), in descending order."""
    ce_scores: Array
    """Cross-encoder scores, float32 of shape (n,). NaN where the cross-encoder was not asked."""
    coop_ranks: Array
    """Ranks after reranking, int64 of shape (n,). They give Coop's order of the candidates for this k and for any smaller k."""

    def order(self, k: int = 0) -> Array:
        """Item numbers in Coop's order for that k, best first. With k = 0, the bi-encoder's order.

        Candidates beyond k stay below the others in BE order, as in `search.ranking.rank`.
        """
        best = np.argsort(self.coop_ranks[:k])
        return np.concatenate([self.items[:k][best], self.items[k:]])


def depth(ks: Sequence[int]) -> int:
    """The number of candidates to ask Milvus for: the largest k, or the depth of the figures if that is larger."""
    return max(*ks, DEPTH)


def search_pool(
    bench: Workbench,
    entrant: Entrant,
    corpus: Corpus,
    pool: Pool,
    shelves: Mapping[Kind, Shelf],
    ks: Sequence[int],
    *,
    rerank: bool,
    on_progress: OnProgress,
) -> dict[Kind, list[Ranking]]:
    """Search in both directions through `CoopSearch`.

    Args:
        bench: the workbench that holds the collections.
        entrant: the bundle.
        corpus: the items that the numbers name.
        pool: the queries.
        shelves: the pool's collections, by the kind of their items.
        ks: the ks that Coop is evaluated with.
        rerank: True if the cross-encoder is needed.
        on_progress: called after every call of `query_many`.

    Returns:
        Rankings by the kind that was searched for. Those of `image` have texts as queries.

    Raises:
        BackendError: the cross-encoder did not rerank every candidate. Figures of such a run would be worthless.
    """
    limit = depth(ks)
    k = max(ks) if rerank else limit
    found: dict[Kind, list[Ranking]] = {}
    queries: Mapping[Kind, list[int]] = {"image": list(pool.relevant_images), "text": list(pool.relevant_texts)}
    for kind, numbers in queries.items():
        stage = f"{kind} retrieval, {entrant.name}{f', {pool.language}' if len(corpus.texts) > 1 else ''}"
        rankings: list[Ranking] = []
        step = max(1, min(QUERIES_PER_CALL, PAIRS_PER_CALL // k))
        with bench.search(shelves[kind], entrant) as search:
            for start in range(0, len(numbers), step):
                some = numbers[start : start + step]
                results = _ask(search, corpus, pool.language, kind, some, limit=limit, k=k, rerank=rerank)
                rankings += [_ranking(query, result, k if rerank else 0) for query, result in zip(some, results, strict=True)]
                on_progress(Progress(stage, len(rankings), len(numbers)))
        found[kind] = rankings
    return found


def _ask(
    search: CoopSearch, corpus: Corpus, language: str, kind: Kind, numbers: Sequence[int], *, limit: int, k: int, rerank: bool
) -> list[SearchResult]:
    if kind == "image":
        texts = [corpus.texts[language][number].text for number in numbers]
        return search.query_many(texts, limit=limit, k=k, rerank=rerank)
    return search.query_many(images=[corpus.images[number].path for number in numbers], limit=limit, k=k, rerank=rerank)


def _ranking(query: int, result: SearchResult, k: int) -> Ranking:
    if k and not result.reranked:
        raise BackendError(
            f"the cross-encoder reranked {result.reranked_count} candidates of a query: {result.reason}", run="milvus-coop doctor"
        )
    hits = sorted(result.hits, key=lambda hit: hit.be_rank)
    return Ranking(
        query=query,
        items=np.array([number_of(hit.uri) for hit in hits], dtype=np.int64),
        be_scores=np.array([hit.be_score for hit in hits], dtype=np.float32),
        ce_scores=np.array([np.nan if hit.ce_score is None else hit.ce_score for hit in hits], dtype=np.float32),
        coop_ranks=np.array([hit.rank for hit in hits], dtype=np.int64),
    )
