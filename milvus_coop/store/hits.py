"""Turns what Milvus returns for a search into candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milvus_coop.store.layout import Layout
from milvus_coop.store.rows import Record
from milvus_coop.types import Array, Candidate


def candidates(hits: Sequence[Mapping[str, Any]], layout: Layout, output_fields: Sequence[str]) -> list[Candidate]:
    """The hits of one query as candidates, by descending `be_score`, then by id; `output_fields` as in `CollectionView.search`."""
    found = [candidate(hit, layout, output_fields) for hit in hits]
    return sorted(found, key=lambda c: (-c.be_score, c.id))


def candidate(hit: Mapping[str, Any], layout: Layout, output_fields: Sequence[str] = ()) -> Candidate:
    """One hit as a candidate. A hit has `id`, `distance`, and in `entity` the fields that were asked for."""
    entity: Record = {layout.id: hit["id"] if layout.id not in hit else hit[layout.id], **hit["entity"]}
    score = float(hit["distance"])
    if layout.metric == "COSINE":
        score = min(1.0, max(-1.0, score))  # Milvus returns values up to 1.0000001
    fields = {name: entity[name] for name in output_fields if name in entity}
    if "*" in output_fields:
        fields |= {name: value for name, value in entity.items() if name not in layout.schema_fields}
    return Candidate(
        id=str(entity[layout.id]),
        uri=str(entity.get(layout.uri, "")),
        be_score=score,
        content=layout.content(entity),
        fields=fields,
    )


def similarity(query: Array, embedding: Sequence[float], layout: Layout) -> float:
    """The similarity that a search would return as the distance, of two vectors of shape (dim,)."""
    stored = np.asarray(embedding, dtype=np.float32)
    length = float(np.linalg.norm(stored)) if layout.metric == "COSINE" else 1.0
    return float(query @ stored) / length if length else 0.0
