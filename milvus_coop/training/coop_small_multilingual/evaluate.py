"""The held-out stamps in every language, through the path of a user: Milvus Lite, ONNX Runtime, `CoopSearch`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milvus_coop.ingest import CoopIngest
from milvus_coop.search import CoopSearch
from milvus_coop.training.coop_small.figures import recall_figures
from milvus_coop.training.coop_small.judge import COOP_K
from milvus_coop.training.coop_small.records import normalise
from milvus_coop.training.metrics import KS, Recalls
from milvus_coop.types import SearchResult

MIN_CAPTIONS = 100
_BATCH = 32  # queries in one call: a busy machine answers more of them only after the store's deadline
Rows = list[dict[str, Any]]


def evaluate_languages(
    rows: Rows, pictures: Path, work: Path, bundle: str | Path, *, min_captions: int = MIN_CAPTIONS
) -> dict[str, Any]:
    """Ingest the pictures once, search them with the captions of every language (about a minute).

    Args:
        rows: of `stamps.jsonl`, one split.
        pictures: the folder that the rows' `image` starts from.
        work: where the database goes.
        bundle: what to evaluate.
        min_captions: languages with fewer pictures captioned are left out.

    Returns:
        per language: `captions` (distinct queries), `be` and `coop`: R@1, R@5, R@10 and the standard error of R@1, text to image.
        A query counts only if its language has a caption for the picture; any picture with that caption is right.
    """
    work.mkdir(parents=True, exist_ok=True)
    database, pictures_list = work / "languages.db", work / "pictures.jsonl"
    _remove(database)
    listed = ({"path": str(pictures / row["image"]), "label": row["id"]} for row in rows)
    pictures_list.write_text("".join(json.dumps(row) + "\n" for row in listed), "utf-8")
    with CoopIngest("images", kind="image", uri=database, bundle=bundle) as ingest:
        report = ingest.run([pictures_list])
        if report.failures:
            raise RuntimeError(f"{len(report.failures)} stamps could not be ingested: {report.failures[0]}")
    figures = {}
    with CoopSearch("images", uri=database, bundle=bundle) as search:
        for language in languages_of(rows, min_captions):
            queries = queries_of(rows, language)
            found: list[SearchResult] = []
            for start in range(0, len(queries), _BATCH):
                some = list(queries)[start : start + _BATCH]
                found += search.query_many(some, limit=COOP_K, k=COOP_K, output_fields=["label"])
            figures[language] = describe(found, list(queries.values()))
    return figures


def languages_of(rows: Rows, min_captions: int = MIN_CAPTIONS) -> list[str]:
    """Languages with at least that many captioned pictures, English first."""
    counts: dict[str, int] = {}
    for row in rows:
        for language in row["captions"]:
            counts[language] = counts.get(language, 0) + 1
    kept = sorted(language for language, count in counts.items() if count >= min_captions)
    return sorted(kept, key=lambda language: language != "en")


def queries_of(rows: Rows, language: str) -> dict[str, set[str]]:
    """Distinct captions, and the pictures that each describes."""
    first: dict[str, str] = {}
    right: dict[str, set[str]] = {}
    for row in rows:
        for caption in row["captions"].get(language, ())[:1]:
            query = first.setdefault(normalise(caption), caption)
            right.setdefault(query, set()).add(row["id"])
    return right


def describe(results: Sequence[SearchResult], right: Sequence[set[str]]) -> dict[str, Any]:
    """Recalls by bi-encoder order and by final order."""
    nowhere = 1 + max(KS)
    best: dict[str, list[int]] = {"be_rank": [], "rank": []}
    for result, ids in zip(results, right, strict=True):
        hits = [hit for hit in result.hits if hit.fields["label"] in ids]
        for name, ranks in best.items():
            ranks.append(min((getattr(hit, name) for hit in hits), default=nowhere))
    be, coop = (Recalls(np.array(ranks)[:, None] <= np.array(KS)) for ranks in best.values())
    return {"captions": len(right), "be": recall_figures(be), "coop": recall_figures(coop)}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
