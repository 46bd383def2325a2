"""The state of a collection for `sources.py`: its rows and the hits of some queries; and what differs between two states."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sources_data import short
from milvus_coop import CoopSearch, Store
from milvus_coop.bundle.spec import TokenSpec
from milvus_coop.config import Settings
from milvus_coop.models.tokens import arrange
from milvus_coop.types import Array, StoredTokens

EMBEDDING_TOLERANCE = 1e-5
"""The encoder rounds differently in batches of different sizes."""
TOKEN_TOLERANCE = 1.01
"""In steps of the quantisation: a value on the border between two steps may be rounded either way."""
SCORE_TOLERANCE = 5e-3
"""A probability may change by this if some tokens are rounded the other way. Hits that are closer may change places."""
LIMIT = 10

Hits = Sequence[tuple[str, float]]
"""The uri and the score of each hit of a query."""


@dataclass(frozen=True, slots=True)
class State:
    """Rows by ascending id, and the hits of each query."""

    facts: Mapping[str, tuple[str, str, int, int, str]]
    """Uri, digest, size, modification time, and metadata as JSON, by id."""
    embeddings: Array
    tokens: Sequence[bytes]
    hits: Sequence[Hits]

    def save(self, path: Path) -> None:
        held = {
            "facts": self.facts,
            "dim": self.embeddings.shape[1],
            "embeddings": base64.b64encode(self.embeddings.astype("<f4").tobytes()).decode(),
            "tokens": [base64.b64encode(raw).decode() for raw in self.tokens],
            "hits": self.hits,
        }
        path.write_text(json.dumps(held), "utf-8")

    @classmethod
    def load(cls, path: Path) -> State:
        held = json.loads(path.read_text("utf-8"))
        vectors = np.frombuffer(base64.b64decode(held["embeddings"]), "<f4").reshape(-1, held["dim"])
        facts = {id: tuple(fact) for id, fact in held["facts"].items()}
        hits = [[(uri, score) for uri, score in hits] for hits in held["hits"]]
        return cls(facts, vectors, [base64.b64decode(raw) for raw in held["tokens"]], hits)


def read_state(settings: Settings, queries: Sequence[str]) -> State:
    """Read all rows of the collection, and query it."""
    with Store.from_settings(settings) as store:
        rows = sorted((row for page in store.open(settings.collection).all_rows() for row in page), key=lambda row: row.id)
    tokens = [base64.b64decode(row.content.encoded) if isinstance(row.content, StoredTokens) else b"" for row in rows]
    facts = {row.id: (row.uri, row.digest, row.size, row.mtime_ns, json.dumps(row.metadata, sort_keys=True)) for row in rows}
    with CoopSearch(settings=settings) as search:
        hits = [[(hit.uri, float(hit.ce_score or 0.0)) for hit in search.query(text, limit=LIMIT)] for text in queries]
    return State(facts, np.array([row.embedding for row in rows], dtype=np.float32), tokens, hits)


def against_truth(state: State, truth: Mapping[str, tuple[str, str]]) -> list[str]:
    """How the rows differ from the uris and the digests of contents that they must have, by id."""
    found = _keys("ids", truth, state.facts)
    wrong = [id for id, (uri, digest) in truth.items() if id in state.facts and (uri, digest) != _named(state.facts[id])]
    return found + ([f"uri or content: {len(wrong)} rows, such as {wrong[0]}"] if wrong else [])


def same_source(first: State, second: State, spec: TokenSpec) -> list[str]:
    """How two collections of the same source differ, in every field."""
    found = _keys("ids", first.facts, second.facts)
    common = first.facts.keys() & second.facts.keys()
    for i, name in enumerate(("uri", "digest", "size", "modification time", "metadata")):
        wrong = sorted(id for id in common if first.facts[id][i] != second.facts[id][i])
        found += [f"{name}: {len(wrong)} rows, such as {wrong[0]}"] if wrong else []
    return found + _contents(first, second, spec, lambda state, id: id) + _hits(first, second, lambda uri: uri)


def across_sources(first: State, second: State, spec: TokenSpec) -> list[str]:
    """How two collections of the same images differ if their uris differ: contents by the name of the image."""

    def name(state: State, id: str) -> str:
        return short(state.facts[id][0])

    digests = [{name(state, id): fact[1][:32] for id, fact in state.facts.items()} for state in (first, second)]
    found = _keys("names", *digests)
    wrong = sorted(key for key in digests[0].keys() & digests[1].keys() if digests[0][key] != digests[1][key])
    found += [f"digest: {len(wrong)} rows, such as {wrong[0]}"] if wrong else []
    return found + _contents(first, second, spec, name) + _hits(first, second, short)


def _named(fact: tuple[str, str, int, int, str]) -> tuple[str, str]:
    return fact[0], fact[1][:32]


def _keys(what: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    missing, surplus = sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())
    return [
        f"{what}: {len(keys)} {kind}, such as {keys[0]}" for kind, keys in (("missing", missing), ("too many", surplus)) if keys
    ]


def _contents(first: State, second: State, spec: TokenSpec, key: Callable[[State, str], str]) -> list[str]:
    places = [{key(state, id): i for i, id in enumerate(state.facts)} for state in (first, second)]
    common = sorted(places[0].keys() & places[1].keys())
    if not common:
        return ["embedding: no rows to compare"]
    a, b = ([place[name] for name in common] for place in places)
    found = []
    apart = np.abs(first.embeddings[a] - second.embeddings[b]).max(axis=1)
    if (apart > EMBEDDING_TOLERANCE).any():
        found.append(f"embedding: {(apart > EMBEDDING_TOLERANCE).sum()} rows, by up to {apart.max():.1e}")
    values, scales = arrange([first.tokens[i] for i in a], spec)
    others, other_scales = arrange([second.tokens[i] for i in b], spec)
    steps = np.maximum(np.maximum(scales, other_scales).astype(np.float32), np.finfo(np.float32).tiny)[..., None]
    apart = np.abs(values * scales[..., None].astype(np.float32) - others * other_scales[..., None].astype(np.float32)) / steps
    rows = apart.reshape(len(common), -1).max(axis=1)
    # A scale in half precision may be rounded either way too, which moves a large value by less than a step.
    if (rows > TOKEN_TOLERANCE).any():
        found.append(f"tokens: {(rows > TOKEN_TOLERANCE).sum()} rows, by up to {rows.max():.1f} steps")
    return found


def _hits(first: State, second: State, key: Callable[[str], str]) -> list[str]:
    if len(first.hits) != len(second.hits):
        return [f"hits: {len(first.hits)} and {len(second.hits)} queries"]
    differ = [i for i, (a, b) in enumerate(zip(first.hits, second.hits, strict=True)) if not _same_hits(a, b, key)]
    return [f"hits: {len(differ)} of {len(first.hits)} queries, such as number {differ[0]}"] if differ else []


def _same_hits(first: Hits, second: Hits, key: Callable[[str], str]) -> bool:
    """True if the hits are the same, but for the order of those with nearly the same score."""
    if len(first) != len(second):
        return False
    scores = [{key(uri): score for uri, score in hits} for hits in (first, second)]
    if any(abs(a[1] - b[1]) > SCORE_TOLERANCE for a, b in zip(first, second, strict=True)):
        return False
    if any(abs(scores[0][name] - scores[1][name]) > SCORE_TOLERANCE for name in scores[0].keys() & scores[1].keys()):
        return False
    # Of two images with the score of the last hit, either may be left out.
    return all(
        abs(found[name] - hits[-1][1]) <= SCORE_TOLERANCE
        for found, other, hits in ((scores[0], scores[1], first), (scores[1], scores[0], second))
        for name in found.keys() - other.keys()
    )
