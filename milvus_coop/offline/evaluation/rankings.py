"""Asks Milvus once per query, with the largest k; what every smaller k would have answered follows from that."""

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
"""Pairs in one `query_many`: enough for full batches, little enough for a bar that moves."""
QUERIES_PER_CALL = 32


@dataclass(frozen=True, slots=True)
class Ranking:
    """What Milvus returned for one query, and what the cross-encoder thought of it."""

    query: int
    """Number of the text or image."""
    items: Array
    """Item numbers in BE order, best first: int64 of shape (n,)."""
    be_scores: Array
    """float32 of shape (n,), falling."""
    ce_scores: Array
    """float32 of shape (n,); NaN where the cross-encoder was not asked."""
    coop_ranks: Array
    """Ranks after reranking, int64 of shape (n,): how Coop orders the candidates, also those of any smaller k."""

    def order(self, k: int = 0) -> Array:
        """Item numbers, best first, as Coop answers with that k; 0: the bi-encoder's order.

        Candidates beyond k stay below in BE order. As `search.ranking.rank` has it.
        """
        best = np.argsort(self.coop_ranks[:k])
        return np.concatenate([self.items[:k][best], self.items[k:]])


def depth(ks: Sequence[int]) -> int:
    """How many candidates are asked of Milvus: the largest k, and never less than the figures look at."""
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
    """Both directions, through `CoopSearch`.

    Args:
        bench: holds the collections.
        entrant: the bundle.
        corpus: what the numbers stand for.
        pool: queries.
        shelves: the pool's collections by what they hold.
        ks: what Coop will be asked about.
        rerank: whether the cross-encoder is needed.
        on_progress: told after every call.

    Returns:
        Rankings by what was searched for: `image` are those of the texts.

    Raises:
        BackendError: the cross-encoder did not rescore everything; figures of a half-reranked run would be worth nothing.
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
            f"the cross-encoder rescored {result.rescored} candidates of a query: {result.reason}", run="milvus-coop doctor"
        )
    hits = sorted(result.hits, key=lambda hit: hit.be_rank)
    return Ranking(
        query=query,
        items=np.array([number_of(hit.uri) for hit in hits], dtype=np.int64),
        be_scores=np.array([hit.be_score for hit in hits], dtype=np.float32),
        ce_scores=np.array([np.nan if hit.ce_score is None else hit.ce_score for hit in hits], dtype=np.float32),
        coop_ranks=np.array([hit.rank for hit in hits], dtype=np.int64),
    )
