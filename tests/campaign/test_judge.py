"""The judge finds what is planted into a history, and nothing in a history without a fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.campaign.history import Call, Event, History, Record, read
from benchmarks.campaign.judge import Rules, Verdict, World, judge
from benchmarks.campaign.report import Report
from benchmarks.campaign.timeline import Timeline
from benchmarks.campaign.truth import TEXTS, Truth
from tests.toy_bundle import make_bundle

ITEMS = {f"item-{version:02}": version for version in range(30)}
K, LIMIT, DEADLINE_MS = 10, 4, 1000.0

Plant = Callable[[dict[str, Any]], object]
"""Changes a call of a history."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    truth = Truth(make_bundle(tmp_path_factory.mktemp("judge") / "toy").folder, range(60))
    yield truth
    truth.close()


def right_answer(truth: Truth, text: str, items: dict[str, int], *, reranked: bool = True) -> dict[str, Any]:
    """What a search must answer, by the plainest means."""
    cosines, probabilities = truth.scores(text)
    candidates = sorted(items, key=lambda id: -cosines[truth.row(items[id])])[:K]
    order = sorted(candidates, key=lambda id: -probabilities[truth.row(items[id])]) if reranked else candidates
    hits = []
    for rank, id in enumerate(order[:LIMIT], start=1):
        cosine, probability = (float(scores[truth.row(items[id])]) for scores in (cosines, probabilities))
        hits.append(
            {
                "id": id,
                "rank": rank,
                "score": probability if reranked else cosine,
                "be_rank": candidates.index(id) + 1,
                "be_score": cosine,
                "ce_score": probability if reranked else None,
            }
        )
    reason = None if reranked else "the cross-encoder failed: it is away"
    return {"hits": hits, "reranked": reranked, "reranked_count": K * reranked, "candidates": K, "reason": reason}


def state_of(truth: Truth, items: dict[str, int]) -> dict[str, Any]:
    digests = {version: digest for digest, version in truth._digests.items()}
    rows = [{"id": id, "digest": digests[v], "embedding": truth.embedding(v).tolist()} for id, v in items.items()]
    return {"rows": rows, "count": len(rows)}


def calls_of(truth: Truth) -> list[dict[str, Any]]:
    """A write of everything, an update and a removal; then searches and a reading of the state."""
    now = {**ITEMS, "item-03": 40}
    del now["item-04"]
    calls = [
        {"client": "writer", "op": "write", "start": 0, "end": 1, "arguments": {"items": ITEMS}, "answer": {}},
        {"client": "writer", "op": "write", "start": 2, "end": 3, "arguments": {"items": {"item-03": 40}}, "answer": {}},
        {"client": "writer", "op": "write", "start": 4, "end": 5, "arguments": {"gone": ["item-04"]}, "answer": {}},
    ]
    for i, text in enumerate(TEXTS[:6]):
        asked = {"text": text, "k": K, "limit": LIMIT, "deadline_ms": DEADLINE_MS}
        calls.append(
            {
                "client": "sdk",
                "op": "search",
                "start": 10 + i,
                "end": 10.5 + i,
                "arguments": asked,
                "answer": right_answer(truth, text, now),
            }
        )
    calls.append({"client": "writer", "op": "state", "start": 20, "end": 21, "arguments": {}, "answer": state_of(truth, now)})
    return copy.deepcopy(calls)


def judged(truth: Truth, calls: list[dict[str, Any]], events: list[Event] | None = None, rules: Rules | None = None) -> Verdict:
    record = Record([Call(**call) for call in calls], events or [])
    return judge(record, [World(truth, Timeline(record.calls))], rules)


def test_nothing_is_found_where_nothing_is_wrong(truth: Truth) -> None:
    verdict = judged(truth, calls_of(truth))
    assert verdict.violations == []
    assert verdict.figures["calls"] == {"write": 3, "search": 6, "state": 1}


def lose_a_row(call: dict[str, Any]) -> None:
    del call["answer"]["rows"][7]
    call["answer"]["count"] -= 1


def repeat_a_row(call: dict[str, Any]) -> None:
    call["answer"]["rows"].append(call["answer"]["rows"][7])
    call["answer"]["count"] += 1


def hide_a_second_row(call: dict[str, Any]) -> None:
    call["answer"]["count"] += 1


def forget_the_update(call: dict[str, Any], truth: Truth) -> None:
    row = next(row for row in call["answer"]["rows"] if row["id"] == "item-03")
    row.update(state_of(truth, {"item-03": 3})["rows"][0])


def swap_embeddings(call: dict[str, Any]) -> None:
    first, second = call["answer"]["rows"][:2]
    first["embedding"], second["embedding"] = second["embedding"], first["embedding"]


@pytest.mark.parametrize(
    ("plant", "rule"),
    [(lose_a_row, "lost"), (repeat_a_row, "duplicate"), (hide_a_second_row, "duplicate"), (swap_embeddings, "wrong row")],
)
def test_a_wrong_state_is_found(truth: Truth, plant: Plant, rule: str) -> None:
    calls = calls_of(truth)
    plant(calls[-1])
    assert rule in judged(truth, calls).by_rule


def test_an_update_and_a_removal_that_were_lost_are_found(truth: Truth) -> None:
    calls = calls_of(truth)
    forget_the_update(calls[-1], truth)
    assert judged(truth, calls).by_rule == {"lost": 1}
    calls = calls_of(truth)
    calls[-1]["answer"] = state_of(truth, {**ITEMS, "item-03": 40})
    assert judged(truth, calls).by_rule == {"ghost": 1}


def swap_hits(call: dict[str, Any]) -> None:
    hits = call["answer"]["hits"]
    hits[0], hits[1] = {**hits[1], "rank": 1}, {**hits[0], "rank": 2}


def repeat_a_hit(call: dict[str, Any]) -> None:
    hits = call["answer"]["hits"]
    hits[1] = {**hits[0], "rank": 2}


def invent_a_hit(call: dict[str, Any]) -> None:
    call["answer"]["hits"][2]["id"] = "item-99"


def change_a_score(call: dict[str, Any]) -> None:
    call["answer"]["hits"][0]["be_score"] += 0.01


def leave_out_the_best(call: dict[str, Any]) -> None:
    hits = call["answer"]["hits"]
    call["answer"]["hits"] = [{**hit, "rank": rank} for rank, hit in enumerate(hits[1:], start=1)]


def degrade_silently(call: dict[str, Any], truth: Truth) -> None:
    text = call["arguments"]["text"]
    items = {**ITEMS, "item-03": 40}
    del items["item-04"]
    call["answer"] = {**right_answer(truth, text, items, reranked=False), "reranked": True, "reason": None}


def drop_the_reason(call: dict[str, Any], truth: Truth) -> None:
    degrade_silently(call, truth)
    call["answer"] |= {"reranked": False}


def answer_late(call: dict[str, Any]) -> None:
    call["end"] = call["start"] + (DEADLINE_MS + 300) / 1000


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (swap_hits, "wrong order"),
        (repeat_a_hit, "duplicate"),
        (invent_a_hit, "ghost"),
        (change_a_score, "wrong score"),
        (leave_out_the_best, "missing hit"),
        (answer_late, "late"),
    ],
)
def test_a_wrong_answer_is_found(truth: Truth, plant: Plant, rule: str) -> None:
    for i in range(3, 9):
        calls = calls_of(truth)
        plant(calls[i])
        assert rule in judged(truth, calls).by_rule


@pytest.mark.parametrize("plant", [degrade_silently, drop_the_reason])
def test_a_silent_degradation_is_found(truth: Truth, plant: Callable[[dict[str, Any], Truth], None]) -> None:
    calls = calls_of(truth)
    plant(calls[5], truth)
    assert "silent degradation" in judged(truth, calls).by_rule


def test_candidates_that_were_left_out_silently_are_found(truth: Truth) -> None:
    calls = calls_of(truth)
    calls[5]["answer"]["reranked_count"] = K - 1
    assert judged(truth, calls).by_rule == {"silent degradation": 1}


def degraded(truth: Truth, call: dict[str, Any]) -> None:
    items = {**ITEMS, "item-03": 40}
    del items["item-04"]
    call["answer"] = right_answer(truth, call["arguments"]["text"], items, reranked=False)


def test_a_degraded_answer_needs_a_fault(truth: Truth) -> None:
    calls = calls_of(truth)
    degraded(truth, calls[3])  # from 10 to 10.5
    assert judged(truth, calls).by_rule == {"failed search": 1}
    faults = [Event("Triton killed", "fault", 9.0), Event("Triton killed", "repair", 9.5)]
    assert judged(truth, calls, faults).violations == []
    assert judged(truth, calls, faults, Rules(recovery_s=0.2)).by_rule == {"not recovered": 1}


def test_a_client_that_does_not_come_back_is_found(truth: Truth) -> None:
    calls = calls_of(truth)
    for call in calls[3:9]:
        call |= {"answer": None, "error": {"type": "BackendUnavailableError", "message": "it is away"}}
    faults = [Event("Triton killed", "fault", 9.0), Event("Triton killed", "repair", 11.0)]
    assert judged(truth, calls, faults).violations == []  # there was less than `recovery_s` to come back
    assert "not recovered" in judged(truth, calls, faults, Rules(recovery_s=2.0)).by_rule


def test_a_gateway_is_not_late_where_the_network_to_its_client_is(truth: Truth) -> None:
    calls = calls_of(truth)
    answer_late(calls[3])
    faults = [Event("network to the gateway: cut", "fault", 9.0), Event("network to the gateway: cut", "repair", 11.0)]
    assert judged(truth, calls, faults).by_rule == {"late": 1}
    calls[3]["client"] = "http-0"
    assert judged(truth, calls, faults).violations == []
    assert judged(truth, calls).by_rule == {"late": 1}


def test_an_error_that_no_outage_explains_is_found(truth: Truth) -> None:
    calls = calls_of(truth)
    calls[3] |= {"answer": None, "error": {"type": "TypeError", "message": "a bug"}}
    faults = [Event("Triton killed", "fault", 9.0), Event("Triton killed", "repair", 11.0)]
    assert judged(truth, calls, faults).by_rule == {"unexpected error": 1}


def test_hits_of_two_bundles_in_one_answer_are_found(truth: Truth, tmp_path: Path) -> None:
    other = Truth(make_bundle(tmp_path / "other", weights=1).folder, range(60))
    assert other.fingerprint != truth.fingerprint
    calls = calls_of(truth)
    timeline = Timeline([Call(**call) for call in calls])
    worlds = [World(truth, timeline), World(other, timeline)]
    items = {**ITEMS, "item-03": 40}
    del items["item-04"]
    calls[4]["answer"] = right_answer(other, calls[4]["arguments"]["text"], items)
    record = Record([Call(**call) for call in calls])
    assert judge(record, worlds).violations == []
    calls[4]["answer"]["hits"][0] = right_answer(truth, calls[4]["arguments"]["text"], items)["hits"][0]
    assert "mixed" in judge(Record([Call(**call) for call in calls]), worlds).by_rule
    other.close()


def test_a_write_that_was_killed_may_have_happened_or_not(truth: Truth) -> None:
    """And for each of its items by itself; but a row of neither version is wrong."""
    killed = {"client": "writer", "op": "write", "start": 6, "end": 7, "error": {"type": "RunError", "message": "killed"}}
    now = {**ITEMS, "item-03": 40}
    del now["item-04"]
    for version, rules in ((40, {}), (50, {}), (51, {"lost": 1})):
        calls = calls_of(truth)
        calls[-1]["answer"] = state_of(truth, {**now, "item-03": version})
        calls.insert(3, {**killed, "arguments": {"items": {"item-03": 50, "item-05": 5}}})
        assert judged(truth, calls[:4] + calls[-1:]).by_rule == rules
    run = [{**killed, "arguments": {"must": True, "items": {}}}]
    assert judged(truth, [*calls_of(truth), *run]).by_rule == {"failed run": 1}


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.event("Triton killed", "fault")
    history.call("a", "search", {"text": "a"}, lambda: {"hits": []})
    history.close()
    history = History(tmp_path / "history.jsonl")  # it is appended to

    def fail() -> None:
        raise ValueError("no")

    made = history.call("b", "search", {"text": "b"}, fail)
    history.close()
    record = read(tmp_path / "history.jsonl")
    assert [call.client for call in record.calls] == ["a", "b"]
    assert record.calls[1] == made
    assert made.error == {"type": "ValueError", "message": "no"}
    assert made.start <= made.end
    assert [event.name for event in record.events] == ["Triton killed"]


def test_a_report_has_every_violation(truth: Truth, tmp_path: Path) -> None:
    calls = calls_of(truth)
    lose_a_row(calls[-1])
    report = Report("search", {"seed": 1}, 2.0, judged(truth, calls))
    assert not report.passed
    report.write(tmp_path)
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["violations by rule"] == {"lost": 1}
    assert "python -m benchmarks.campaign search --seed 1" in (tmp_path / "report.md").read_text()
