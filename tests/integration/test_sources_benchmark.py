"""`benchmarks/sources.py` compares collections: it finds what differs between them, and only that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sources_data import short
from benchmarks.sources_state import State, across_sources, against_truth, same_source
from milvus_coop.bundle.spec import TokenSpec
from milvus_coop.ingest.items import hash_of
from milvus_coop.models.tokens import quantise, to_bytes

SPEC = TokenSpec(4, 8, "collection")
N = 6

Fact = tuple[str, str, int, int, str]


def state(before: str = "/photos/", after: str = ".jpg") -> State:
    """A collection of N images."""
    rng = np.random.default_rng(0)
    names = [f"{i:06}" for i in range(N)]
    uris = {hash_of(f"{before}{name}{after}".encode()): (name, f"{before}{name}{after}") for name in names}
    digests = {name: hash_of(name.encode()) for name in names}
    facts = {id: (uri, digests[name] + "0" * 32, 100, 5, "{}") for id, (name, uri) in sorted(uris.items())}
    made = {name: (rng.standard_normal(16).astype(np.float32), rng.standard_normal((4, 8)).astype(np.float32)) for name in names}
    order = [short(fact[0]) for fact in facts.values()]
    tokens = to_bytes(*quantise(np.array([made[name][1] for name in order])))
    hits = [[(f"{before}{name}{after}", 0.9 - 0.1 * i) for i, name in enumerate(names)]]
    return State(facts, np.array([made[name][0] for name in order]), tokens, hits)


def truth(of: State) -> dict[str, tuple[str, str]]:
    return {id: (fact[0], fact[1][:32]) for id, fact in of.facts.items()}


def without_a_row(of: State) -> State:
    return replace(of, facts=dict(list(of.facts.items())[1:]), embeddings=of.embeddings[1:], tokens=of.tokens[1:])


def with_another_embedding(of: State) -> State:
    embeddings = of.embeddings.copy()
    embeddings[2, 3] += 0.001
    return replace(of, embeddings=embeddings)


def with_swapped_embeddings(of: State) -> State:
    return replace(of, embeddings=of.embeddings[[1, 0, *range(2, N)]])


def with_other_tokens(of: State) -> State:
    changed = bytearray(of.tokens[1])
    changed[0] = (changed[0] + 100) % 256
    return replace(of, tokens=[of.tokens[0], bytes(changed), *of.tokens[2:]])


def with_a_fact(i: int, value: str | int) -> Callable[[State], State]:
    def change(of: State) -> State:
        (id, fact), *_ = of.facts.items()
        changed: list[str | int] = list(fact)
        changed[i] = value
        facts: Mapping[str, Fact] = {**of.facts, id: tuple(changed)}  # type: ignore[dict-item]
        return replace(of, facts=facts)

    return change


def with_hits(change: Callable[[list[tuple[str, float]]], list[tuple[str, float]]]) -> Callable[[State], State]:
    return lambda of: replace(of, hits=[change(list(of.hits[0]))])


FAULTS: dict[str, tuple[Callable[[State], State], str]] = {
    "a missing row": (without_a_row, "missing"),
    "another embedding": (with_another_embedding, "embedding: 1 rows"),
    "swapped embeddings": (with_swapped_embeddings, "embedding: 2 rows"),
    "other tokens": (with_other_tokens, "tokens: 1 rows"),
    "another digest": (with_a_fact(1, "f" * 64), "digest: 1 rows"),
    "a hit that is missing": (with_hits(lambda hits: hits[:-1]), "hits: 1 of 1"),
    "hits in another order": (with_hits(lambda hits: [hits[1], hits[0], *hits[2:]]), "hits: 1 of 1"),
    "another hit": (with_hits(lambda hits: [("/photos/000099.jpg", 0.9), *hits[1:]]), "hits: 1 of 1"),
}


def test_the_same_collections() -> None:
    assert same_source(state(), state(), SPEC) == []
    assert across_sources(state(), state("s3://bucket/0000.tar#", ""), SPEC) == []
    assert against_truth(state(), truth(state())) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    change, found = FAULTS[fault]
    assert [text for text in same_source(state(), change(state()), SPEC) if found in text]
    assert [text for text in across_sources(state(), change(state()), SPEC) if found in text]


@pytest.mark.parametrize(("i", "name"), [(0, "uri"), (2, "size"), (3, "modification time"), (4, "metadata")])
def test_every_field_is_compared(i: int, name: str) -> None:
    change = with_a_fact(i, 7 if i in (2, 3) else "other")
    assert [text.partition(":")[0] for text in same_source(state(), change(state()), SPEC)] == [name]


def test_a_row_too_many_is_found() -> None:
    assert any("too many" in text for text in same_source(without_a_row(state()), state(), SPEC))


def test_rows_are_compared_with_the_files() -> None:
    expected = truth(state())
    assert any("missing" in text for text in against_truth(without_a_row(state()), expected))
    assert any("uri or content" in text for text in against_truth(with_a_fact(1, "f" * 64)(state()), expected))


def test_rounding_is_no_difference() -> None:
    def round_otherwise(of: State) -> State:
        changed = bytearray(of.tokens[0])
        changed[0] = (changed[0] + (-1 if 0 < changed[0] < 128 else 1)) % 256
        near = with_hits(lambda hits: [(uri, score + 0.001) for uri, score in hits])(of)
        return replace(near, embeddings=of.embeddings + 1e-7, tokens=[bytes(changed), *of.tokens[1:]])

    assert same_source(state(), round_otherwise(state()), SPEC) == []


def test_a_state_is_kept_as_it_is(tmp_path: Path) -> None:
    state().save(tmp_path / "state.json")
    assert same_source(state(), State.load(tmp_path / "state.json"), SPEC) == []
    assert list(State.load(tmp_path / "state.json").facts) == list(state().facts)
